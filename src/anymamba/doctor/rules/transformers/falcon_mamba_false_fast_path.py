"""FalconMamba falls back although both packages work."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    HARMLESS,
    LIKELY,
    Match,
    Remedy,
    Rule,
    Text,
)


def _log(log: Log) -> Optional[Match]:
    warning = log.search(
        r"[Ff]ast path is not available because (?:on )?one of|is falling back to its reference PyTorch implementation"
    )
    falcon = log.search(r"[Ff]alcon[-_ ]?[Mm]amba")
    if not warning or not falcon:
        return None
    works = log.search(
        r"mamba[-_]ssm(?:==|\s+|-)2\.\d+\.\d+|causal[-_]conv1d(?:==|\s+|-)1\.\d+\.\d+|import"
        r" mamba_ssm[^\n]*(?:works|OK|ok|fine|success)|\(installed\)|is_(?:mamba_ssm"
        r"|causal_conv1d)_available\(\)\s*\n?\s*True|True"
    )
    return Match((warning.start(), works.start()), LIKELY) if works else None


RULE = Rule(
    code="AM068",
    cause="falcon-mamba-false-fast-path",
    order=690,
    title=Text(
        "transformers does not find the kernels for FalconMamba although both packages are installed",
        "两个包都已安装，但 transformers 仍找不到 FalconMamba 的内核",
    ),
    why=Text(
        "A mistake in transformers' lookup: for FalconMamba it asks for a kernel package named falcon_mamba-ssm,"
        " for which there is no local check (5.0 to 5.14).",
        "这是 transformers 查找逻辑的错误：对 FalconMamba，它寻找名为 falcon_mamba-ssm 的内核包，而对此没有本地检查"
        "（5.0 至 5.14）。",
    ),
    needed=HARMLESS,
    log=_log,
    remedies=(
        Remedy(
            Text("Use transformers 5.15 or newer.", "使用 transformers 5.15 或更高版本。"),
            ('pip install -U "transformers>=5.15"',),
        ),
        advice.USE_ANYMAMBA,
    ),
    explains=("transformers-fast-path-warning",),
    links=("https://github.com/huggingface/transformers/issues/46234",),
)

"""A plain Python package that mamba-ssm imports is missing."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, NECESSARY, Match, Remedy, Rule, Signature, Text
from anymamba.doctor.tracebacks import frame_before


def _log(log: Log) -> Optional[Match]:
    missing = Signature(
        r"No module named '?(?:einops|transformers|huggingface_hub|packaging|ninja|regex|tokenizers|safetensors)'?(?![\w.])"
    )
    for found in log.finditer(missing):
        frame = frame_before(log, found.start()) or ""
        if ("mamba_ssm" in frame or "causal_conv1d" in frame) and "setup.py" not in frame:
            return Match((found.start(),), CERTAIN)
    listed = log.search(r"(?:mamba[-_]ssm|causal[-_]conv1d) [\w.]+ requires (?!torch|triton)[\w-]+, which is not installed")
    return Match((listed.start(),), CERTAIN) if listed else None


RULE = Rule(
    code="AM121",
    cause="runtime-dependency-missing",
    order=442,
    title=Text(
        "a Python package that mamba-ssm needs at run time is missing (einops, transformers, huggingface_hub, "
        "packaging)",
        "缺少 mamba-ssm 运行所需的 Python 包（einops、transformers、huggingface_hub、packaging）",
    ),
    why=Text(
        "It was installed with --no-deps, or copied. These packages need no compiler.",
        "安装时使用了 --no-deps，或文件是复制来的。这些包无需编译。",
    ),
    needed=NECESSARY,
    log=_log,
    remedies=(
        Remedy(
            Text(
                "Install them.",
                "安装它们。",
            ),
            (
                'pip install einops packaging huggingface_hub "{transformers}"',
            ),
        ),
    ),
)

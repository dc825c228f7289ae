"""mamba-ssm 2.0.0 imports a folder that is not in it."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, ONLY_OFFICIAL, Match, Remedy, Rule, Text
from anymamba.doctor.tracebacks import frame_before


def _log(log: Log) -> Optional[Match]:
    missing = log.search(r"No module named '?src(?:\.\w+)*'?(?![\w.])")
    if not missing:
        return None
    frame = frame_before(log, missing.start()) or ""
    mamba = log.installations.get("mamba-ssm")
    if "mamba_ssm" in frame:
        return Match((missing.start(),), CERTAIN)
    return Match((missing.start(), mamba.offset), LIKELY) if mamba and mamba.version == "2.0.0" else None


RULE = Rule(
    code="AM092",
    cause="mamba-ssm-2-0-0-src",
    order=529,
    title=Text(
        "mamba-ssm 2.0.0 imports a module called src, which it does not contain",
        "mamba-ssm 2.0.0 导入了一个它并不包含的模块 src",
    ),
    why=Text(
        "Release 2.0.0 was published with imports of its own test folder. 2.0.3 and newer do not have them.",
        "2.0.0 版发布时带有对其测试目录的导入，2.0.3 及以后已去除。",
    ),
    needed=ONLY_OFFICIAL,
    log=_log,
    remedies=(
        Remedy(
            Text(
                "Use a newer release that fits this torch.",
                "使用与当前 torch 匹配的较新版本。",
            ),
            (
                "pip install --no-build-isolation --no-cache-dir causal-conv1d=={conv2} mamba-ssm=={mamba2}",
            ),
        ),
    ),
)

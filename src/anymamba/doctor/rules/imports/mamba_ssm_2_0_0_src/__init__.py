"""mamba-ssm 2.0.0 imports a folder that is not in it."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule
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


RULE = Rule(code="AM092", cause="mamba-ssm-2-0-0-src", order=529, log=_log)

"""setup.py imports torch, and the environment it runs in has none."""

from __future__ import annotations

import re
from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import Match, Rule, Signature, match_signatures

_MISSING = r"(?:ModuleNotFoundError|ImportError): No module named '?torch'?(?!\.)"
_BUILDING = (
    r"Getting requirements to build|egg_info|build_wheel|prepare_metadata|setup\.py|bdist_wheel|get_requires_for_build"
    r"|build backend|Failed to build|Preparing metadata|build dependenc"
)


def _log(log: Log) -> Optional[Match]:
    match = match_signatures(log, (Signature(_MISSING),))
    if not match or not re.search(_BUILDING, log.around(match.offsets[0], match.offsets[0], before=50, after=25)):
        return None
    return match


RULE = Rule(code="AM001", cause="torch-not-in-build-env", order=60, log=_log)

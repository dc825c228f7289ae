"""The test tool called mamba was installed in place of mamba-ssm."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule


def _log(log: Log) -> Optional[Match]:
    asked = log.search(
        r"pip3? install (?:-\S+ )*mamba(?:==[\d.]+)?(?=\s|$)|Successfully installed (?:[^\n]* )?mamba-0\.\d+"
        r"|Collecting mamba(?:==[\d.]+)?$"
    )
    if not asked:
        return None
    missing = log.search(
        r"No module named '?mamba_ssm|cannot import name '\w+' from 'mamba'|No module named '?mamba\.\w+|module"
        r" 'mamba' has no attribute"
    )
    if missing:
        return Match((asked.start(), missing.start()), CERTAIN)
    return Match((asked.start(),), LIKELY) if log.names_ours else None


RULE = Rule(code="AM013", cause="wrong-package-mamba", order=10, log=_log, explains=("selective-scan-cuda-missing",))

"""The program needs mamba-ssm, and it is not there."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule

_MISSING = (
    r"No module named '?mamba[-_]ssm'?(?![\w.])"
    r"|[Uu]nable to import [Mm]amba kernels|mamba[-_]ssm (?:package )?(?:is not installed|not found)"
    r"|[Mm]amba(?:[-_]ssm)? is not installed\. Please install"
    r"|(?:requires?|need) (?:the )?[`']?mamba[-_]ssm[`']?[^\n]{0,40}(?:to be installed|not (?:installed|found))|Please install mamba[-_]ssm"
    r"|packages that were not found in your environment: [^\n]*mamba[-_]ssm|mamba[-_]ssm is required by [^\n]* but cannot be imported"
)


def _log(log: Log) -> Optional[Match]:
    missing = log.search(_MISSING)
    # installed all the same: installed-for-another-python or broken-package-reported-missing
    if not missing or "mamba-ssm" in log.installations or log.has(r"pip3? install (?:-\S+ )*mamba(?:\s|$)"):
        return None
    # a failed installation in the same log is the cause, and this its consequence
    return Match((missing.start(),), LIKELY if any("mamba" in name for name in log.failed) else CERTAIN)


RULE = Rule(code="AM093", cause="mamba-ssm-not-installed", order=440, log=_log, explains=("selective-scan-cuda-missing",))

"""conda's default channels have no mamba-ssm."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, Match, Rule


def _log(log: Log) -> Optional[Match]:
    found = log.search(
        r"(?:PackagesNotFoundError|ResolvePackageNotFound|PackageNotFoundError|nothing provides"
        r"|package not found|not available from current channels)"
        r"(?:[^\n]*\n){0,6}?[^\n]*(?:mamba[-_]ssm|causal[-_]conv1d)"
    )
    found = found or log.search(r"(?:mamba[-_]ssm|causal[-_]conv1d)[^\n]{0,20} does not exist \(perhaps a (?:typo|missing channel)[^\n]*")
    return Match((found.start(),), CERTAIN) if found else None


RULE = Rule(code="AM112", cause="conda-package-missing", order=43, log=_log)

"""mamba-ssm 2.3.2.post1 wants triton 3.5, torch up to 2.8 pins an older one."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule


def _log(log: Log) -> Optional[Match]:
    wants = log.search(
        r"mamba[-_]ssm\S* (?:2\.3\.2\S* )?depends on (?:and requires )?triton ?>= ?3\.5|mamba[-_]ssm==2\.3\.2\S*"
        r" depends on triton ?>= ?3\.5"
    )
    pins = log.search(r"torch(?: |==)2\.\d+\S* (?:depends on|requires) triton ?== ?\d")
    if wants and (
        pins
        or log.has(
            r"ResolutionImpossible|No solution found|version solving failed|conflicting dependencies|unsatisfiable"
        )
    ):
        return Match(tuple(found.start() for found in (wants, pins) if found), CERTAIN)
    if (
        pins
        and log.names_ours
        and log.has(r"mamba[-_]ssm[^\n]{0,80}triton ?>= ?3\.5|triton ?>= ?3\.5[^\n]{0,80}mamba[-_]ssm")
    ):
        return Match((pins.start(),), CERTAIN)
    # triton was replaced, and torch's own pin is broken now
    broken = log.search(r"torch(?: |==)2\.\d+\S* requires triton ?== ?\d[^\n]*but you have triton [\d.]+ which is incompatible")
    if broken and log.names_ours:
        return Match((broken.start(),), LIKELY)
    # no error at all: the user's torch was replaced to satisfy the pin
    removed = log.search(
        r"(?:Successfully uninstalled|Found existing installation:|Uninstalling) torch[- ](2\.\d+)[^\n]*"
    )
    added = log.search(r"Successfully installed [^\n]*\btorch-(2\.\d+)[^\n]*")
    if removed and added and log.has(r"mamba[-_]ssm[-= ]+2\.3\.2") and removed.group(1) != added.group(1):
        return Match((removed.start(), added.start()), LIKELY)
    return None


RULE = Rule(
    code="AM010",
    cause="torch-triton-pin-conflict",
    order=50,
    log=_log,
    explains=("abi-undefined-symbol", "libcudart-not-found"),
)

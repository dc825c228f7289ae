"""pip put the package into another Python than the one that runs."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.installations import environments
from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Against, Match, Rule


def _log(log: Log) -> Optional[Match]:
    missing = log.search(r"No module named '?mamba[-_]ssm'?(?![\w.])")
    listed = log.installations.get("mamba-ssm")
    if not missing or not listed:
        return None
    places = environments(log.text)
    return Match((missing.start(), listed.offset), CERTAIN if len(places) > 1 else LIKELY)


RULE = Rule(
    code="AM094",
    cause="installed-for-another-python",
    order=438,
    log=_log,
    against=(
        Against(r"Uninstalling mamba[-_]ssm|pip uninstall (?:-y )?mamba[-_]ssm"),
    ),
)

"""Windows never had a wheel."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import BRANCH, CERTAIN, LIKELY, Match, Rule


def _log(log: Log) -> Optional[Match]:
    guess = log.search(r"Guessing wheel URL: \S+win_amd64\.whl")
    if guess:
        return Match((guess.start(),), CERTAIN if log.has(r"Precompiled wheel not found|HTTP Error 404") else LIKELY)
    return None


RULE = Rule(
    code="AM033",
    cause="windows-no-official-support",
    order=790,
    role=BRANCH,
    log=_log,
    explains=("no-prebuilt-wheel",),
)

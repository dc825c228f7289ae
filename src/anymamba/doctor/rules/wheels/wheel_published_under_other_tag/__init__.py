"""The wheel exists, under a .postN tag that setup.py does not ask."""

from __future__ import annotations

import re
from typing import Dict, Optional

from anymamba.doctor import situation
from anymamba.doctor.log import Log
from anymamba.doctor.rule import BRANCH, LIKELY, Match, Rule

_AFFECTED = re.compile(
    r"download/v1\.6\.1/causal_conv1d-1\.6\.1\+|download/v1\.5\.3\.post1/causal_conv1d-1\.5\.3"
    r"|download/v1\.6\.0/causal_conv1d-1\.6\.0\+"
)

_PYTHONS = ("cp39", "cp310", "cp311", "cp312", "cp313")


def _log(log: Log) -> Optional[Match]:
    found = _AFFECTED.search(log.text.replace("%2B", "+"))
    if not found or not log.has(r"Precompiled wheel not found|HTTP Error 404|404 Not Found|404 Client Error"):
        return None
    wheel = log.facts.get("wheel") or {}
    if wheel and (
        wheel["platform"] not in ("linux_x86_64", "linux_aarch64")
        or situation.short(wheel["torch"]) > (2, 10)
        or wheel["python"] not in _PYTHONS
    ):
        return None
    offsets = situation.first(log, r"download/v1\.(?:6\.[01]|5\.3\.post1)/causal_conv1d")
    return Match(tuple(offsets), LIKELY, _same_file(log.facts.get("guessed_wheel")))


def _same_file(guess: Optional[str]) -> Optional[Dict[str, str]]:
    """The file that was looked for, where it lies."""
    if not guess or "causal_conv1d-1.6.1+" not in guess.replace("%2B", "+"):
        return None
    return {"conv_wheel": guess.replace("/v1.6.1/", "/v1.6.1.post4/")}


RULE = Rule(
    code="AM015",
    cause="wheel-published-under-other-tag",
    order=208,
    role=BRANCH,
    log=_log,
    explains=("no-prebuilt-wheel",),
)

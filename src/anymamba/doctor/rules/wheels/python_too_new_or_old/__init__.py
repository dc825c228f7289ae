"""No wheel, and perhaps no release, for this Python."""

from __future__ import annotations

import re
from typing import Any, Dict, Optional

from anymamba.doctor import situation
from anymamba.doctor.log import Log
from anymamba.doctor.rule import BRANCH, CERTAIN, LIKELY, Match, Rule, Signature, match_signatures


def _log(log: Log) -> Optional[Match]:
    refused = log.search(
        r"(?:mamba[-_]ssm|causal[-_]conv1d)\S*[^\n]{0,80}requires a different Python|(?:mamba[-_]ssm"
        r"|causal[-_]conv1d)[^\n]{0,120}Requires-Python ?>=? ?3\.\d+"
        r"|Requires-Python ?>=? ?3\.\d+[^\n]{0,120}(?:mamba[-_]ssm|causal[-_]conv1d)"
        r"|(?:mamba[-_]ssm|causal[-_]conv1d)\S* (?:depends on|requires) Python ?[><=]=? ?3"
    )
    if refused:
        return Match((refused.start(),), CERTAIN)
    ignored = match_signatures(
        log,
        (Signature(r"Ignored the following versions that require a different python version: [^\n]*Requires-Python"),),
    )
    if ignored and log.has(r"No matching distribution found for (?:mamba[-_]ssm|causal[-_]conv1d)"):
        return ignored._replace(confidence=CERTAIN)
    wheel = log.facts.get("wheel")
    if wheel:
        number = re.match(r"cp3(\d+)", wheel["python"])
        if number and (int(number.group(1)) >= 14 or int(number.group(1)) <= 7):
            offsets = tuple(situation.first(log, r"Guessing wheel URL: "))
            return Match(offsets, LIKELY, role=BRANCH)
    return None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    minor = facts["python"]["minor"]
    if facts["gpu"]["nvidia"] and not facts["packages"]["working"] and (minor >= 14 or minor < 10):
        return Match((), LIKELY, None, ("Python 3.{}".format(minor),))
    return None


RULE = Rule(
    code="AM012",
    cause="python-too-new-or-old",
    order=30,
    log=_log,
    machine=_machine,
    explains=("no-prebuilt-wheel",),
)

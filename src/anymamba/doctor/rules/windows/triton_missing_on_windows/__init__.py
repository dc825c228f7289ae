"""PyPI has triton for Linux alone."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule, Signature, match_signatures


def _log(log: Log) -> Optional[Match]:
    none = match_signatures(
        log,
        (
            Signature(r"(?:ERROR: )?No matching distribution found for triton", bare=True),
            Signature(r"Could not find a version that satisfies the requirement triton", bare=True),
            Signature(r"triton\S* has no wheels with a matching (?:platform|Python) tag"),
        ),
    )
    windows = log.facts.get("system") in ("windows", "macos")
    if none and (windows or log.has(r"from versions: none")):
        return none._replace(confidence=none.confidence if windows else LIKELY)
    missing = match_signatures(
        log, (Signature(r"(?:ModuleNotFoundError|ImportError): No module named '?triton(?:\.\w+)*'?"),)
    )
    if missing and (windows or match_signatures(log, (Signature(r"mamba_ssm[\\/]ops[\\/]triton", own=True),))):
        return missing
    return None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    if (
        facts["system"]["kind"] == "windows"
        and facts["packages"]["mamba_ssm"].get("installed")
        and not facts["triton"].get("installed")
    ):
        return Match((), CERTAIN, None, ("triton: not installed",))
    return None


RULE = Rule(code="AM011", cause="triton-missing-on-windows", order=52, log=_log, machine=_machine)

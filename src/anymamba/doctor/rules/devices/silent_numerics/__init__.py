"""Wrong numbers without a message."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import POSSIBLE, Match, Rule


def _log(log: Log) -> Optional[Match]:
    wrong = log.search(
        r"(?:causal_conv1d|selective_scan|mamba_ssm)(?:.|\n){0,1500}?(?:AssertionError[^\n]*|max_abs_diff"
        r"|Tensor-likes are not close|mismatch(?:ed)? elements|torch\.allclose)"
    )
    machine = log.search(r"\bB300\b|\bGB300\b|sm_103|Blackwell|\bGB10\b|RTX ?50[5-9]0|sm_12[01]|sm_100|\bB200\b")
    return Match((wrong.start(), machine.start()), POSSIBLE) if wrong and machine and log.names_ours else None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    nvcc = facts["cuda"]["used"]
    if not facts["packages"]["working"] or not nvcc or int(nvcc["version"].split(".")[0]) < 13:
        return None
    blackwell = [gpu for gpu in facts["gpu"]["nvidia"] if gpu["capability"] in ("10.3",)]
    return (
        Match(
            (),
            POSSIBLE,
            None,
            ("{} ({}), nvcc {}".format(blackwell[0]["name"], blackwell[0]["capability"], nvcc["version"]),),
        )
        if blackwell
        else None
    )


RULE = Rule(code="AM069", cause="silent-numerics", order=640, log=_log, machine=_machine)

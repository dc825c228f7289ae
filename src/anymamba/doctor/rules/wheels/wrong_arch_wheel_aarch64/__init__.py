"""An x86 wheel on ARM."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule

_ARM = r"aarch64|arm64|Jetson|\bGH200\b|Grace|DGX Spark|\bGB10\b|Orin|tegra"


def _log(log: Log) -> Optional[Match]:
    arm = log.search(_ARM)
    if not arm or log.facts.get("system") == "macos":
        return None
    guess = log.search(r"Guessing wheel URL: \S+linux_x86_64\.whl")
    missing = log.search(r"No module named '?(?:selective_scan_cuda|causal_conv1d_cuda)")
    format_error = log.search(
        r"(?:selective_scan_cuda|causal_conv1d_cuda)[^\n]*(?:x86_64[^\n]*\.so[^\n]*|: )(?:cannot open shared object"
        r" file|wrong ELF class|invalid ELF header)"
    )
    if guess:
        return Match((guess.start(), arm.start()), CERTAIN)
    if format_error:
        return Match((format_error.start(),), CERTAIN)
    if missing:
        return Match((missing.start(), arm.start()), LIKELY)
    return None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    if facts["system"]["machine"] not in ("aarch64", "arm64"):
        return None
    wrong = tuple(path for path in facts["packages"]["libraries"] if "x86_64" in path)
    return Match((), CERTAIN, None, wrong) if wrong else None


RULE = Rule(
    code="AM020",
    cause="wrong-arch-wheel-aarch64",
    order=400,
    log=_log,
    machine=_machine,
    explains=("selective-scan-cuda-missing", "no-prebuilt-wheel"),
)

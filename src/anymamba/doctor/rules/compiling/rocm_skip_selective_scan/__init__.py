"""On ROCm no wheel exists, so the Mamba-1 kernels must be compiled."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Rule, Signature, match_signatures


def _log(log: Log) -> Optional[Match]:
    if not log.facts["rocm"]:
        return None
    missing = log.search(r"No module named '?selective_scan_cuda")
    if missing:
        return Match((missing.start(),), LIKELY)
    source = match_signatures(
        log,
        (
            Signature(
                r"(?:No such file or directory|missing and no known rule|no such file)[^\n]*csrc|csrc[^\n]*(?:No"
                r" such file or directory|no such file|missing and no known rule)"
            ),
        ),
    )
    if source:
        return source._replace(confidence=LIKELY)
    guess = log.search(r"Guessing wheel URL: \S+\+hip\S+\.whl")
    if guess and log.has(r"Precompiled wheel not found|404"):
        return Match((guess.start(),), LIKELY)
    return None


RULE = Rule(
    code="AM042",
    cause="rocm-skip-selective-scan",
    order=302,
    log=_log,
    explains=("selective-scan-cuda-missing", "no-prebuilt-wheel"),
)

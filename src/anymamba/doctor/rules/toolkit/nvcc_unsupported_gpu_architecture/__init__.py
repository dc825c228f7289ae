"""nvcc does not know an architecture that setup.py asks for."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import Match, Rule, Signature, match_signatures


def _log(log: Log) -> Optional[Match]:
    match = match_signatures(
        log,
        (
            Signature(r"Unknown CUDA arch \([^)\n]+\) or GPU not supported"),
            Signature(r"nvcc fatal *: Unsupported gpu architecture '(?:compute|sm)_\d+\w?'", bare=True),
            Signature(r"ptxas fatal *: Value 'sm_\d+\w?' is not defined for option 'gpu-name'"),
        ),
    )
    if not match:
        return None
    arch = log.search(
        r"(?:compute|sm)_(\d+)\w?'",
    )
    return match._replace(values={"arch": arch.group(1)} if arch else None)


RULE = Rule(code="AM028", cause="nvcc-unsupported-gpu-architecture", order=340, log=_log, explains=("log-truncated",))

"""ROCm 7 made the warp size a run-time value."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM040",
    cause="rocm7-warp-threads-constexpr",
    order=346,
    signatures=(
        Signature(
            r"constexpr variable '(?:IS_ARCH_WARP|WARP_THREADS|WARP_ITEMS|\w+)' must be initialized by a constant"
            r" expression"
        ),
        Signature(
            r"(?:non-constexpr|call to non-'constexpr') function[^\n]*warpSize|'?warpSize'? (?:is not|cannot be"
            r" used in) a constant expression|warp_size\(\)[^\n]*constant expression"
        ),
    ),
    explains=("log-truncated",),
)

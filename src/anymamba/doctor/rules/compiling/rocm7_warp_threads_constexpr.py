"""ROCm 7 made the warp size a run-time value."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import (
    OPTIONAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM040",
    cause="rocm7-warp-threads-constexpr",
    order=346,
    title=Text(
        "ROCm 7 no longer has the warp size as a compile-time constant, which these sources need",
        "ROCm 7 不再把 warp 大小作为编译期常量，而这些源码依赖它",
    ),
    why=Text(
        "mamba-ssm up to 2.3.0 computes array sizes from hipCUB's warp size. Repaired in 2.3.1.",
        "mamba-ssm 2.3.0 及以前用 hipCUB 的 warp 大小计算数组长度，2.3.1 已修复。",
    ),
    needed=OPTIONAL,
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
    remedies=(
        Remedy(
            Text("Use mamba-ssm 2.3.1 or newer.", "使用 mamba-ssm 2.3.1 或更高版本。"),
            ("pip install --no-build-isolation git+https://github.com/state-spaces/mamba@v2.3.1",),
        ),
        advice.USE_ANYMAMBA,
    ),
    explains=("log-truncated",),
    links=("https://github.com/state-spaces/mamba/pull/831",),
)

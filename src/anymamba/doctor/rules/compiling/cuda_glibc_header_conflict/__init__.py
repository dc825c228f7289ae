"""glibc 2.41 and CUDA declare the same functions differently."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM079",
    cause="cuda-glibc-header-conflict",
    order=333,
    signatures=(
        Signature(
            r"exception specification is incompatible with that of previous function \"(?:cospi|sinpi|cospif|sinpif"
            r"|rsqrt|rsqrtf)\""
        ),
        Signature(r"(?:math_functions\.h|mathcalls\.h)[^\n]*(?:cospi|sinpi|rsqrt)[^\n]*"),
    ),
    explains=("log-truncated",),
)

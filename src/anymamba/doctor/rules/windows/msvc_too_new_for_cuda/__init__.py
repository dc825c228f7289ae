"""Visual Studio newer than nvcc accepts."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM075",
    cause="msvc-too-new-for-cuda",
    order=323,
    signatures=(
        Signature(r"unsupported Microsoft Visual Studio version! Only the versions between", bare=True),
        Signature(r"STL1002: Unexpected compiler version, expected CUDA [\d.]+ or newer"),
        Signature(r"error C1189: #error: *-- unsupported Microsoft Visual Studio version"),
    ),
    explains=("log-truncated",),
)

"""A ROCm torch, and no hipcc."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM009",
    cause="rocm-hipcc-missing",
    order=90,
    signatures=(
        Signature(r"hip installation not found: .{0,80}ROCM_PATH=", own=True),
        Signature(r"was requested, but hipcc was not found", own=True),
        Signature(r"TypeError: '<' not supported between instances of 'NoneType' and 'Version'"),
        Signature(r"(?:FileNotFoundError|error): \[Errno 2\] No such file or directory: '[^'\n]*hipcc'"),
    ),
)

"""mamba-ssm 2.3.2's pins cannot be met."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM085",
    cause="tilelang-pin-conflict",
    order=54,
    signatures=(
        Signature(
            r"(?:No matching distribution found for|Could not find a version that satisfies the requirement)"
            r" (?:tilelang|apache-tvm-ffi|quack-kernels|nvidia-cutlass-dsl)",
            bare=True,
        ),
        Signature(r"mamba[-_]ssm[^\n]*(?:depends on|requires) (?:tilelang|apache-tvm-ffi|quack-kernels)[^\n]*"),
        Signature(r"Failed to build (?:tilelang|apache-tvm-ffi|quack-kernels)"),
    ),
)

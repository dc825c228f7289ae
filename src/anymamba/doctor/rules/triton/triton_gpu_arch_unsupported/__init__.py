"""Triton does not know the GPU, or no longer does."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Rule, Signature

RULE = Rule(
    code="AM059",
    cause="triton-gpu-arch-unsupported",
    order=602,
    signatures=(
        Signature(r"IndexError: map::at", bare=True),
        Signature(r"LLVM ERROR: Cannot select: [^\n]*llvm\.nvvm\.\w+", bare=True),
        Signature(r"(?:llvm\.nvvm\.)?shfl\.sync[.\w]*[^\n]*(?:Cannot select|not supported|requires|LLVM)", bare=True),
        Signature(r"Feature '(?![^'\n]*bf16)[^'\n]*' requires \.target sm_\d+", bare=True),
        Signature(r"ptxas fatal *: Value 'sm_\d+\w?' is not defined for option 'gpu-name'"),
        Signature(
            r"(?:triton|ptxas)[^\n]*(?:sm_\d+|compute capability)[^\n]*(?:not supported|unsupported)|Triton only"
            r" supports devices of CUDA Capability"
        ),
        Signature(
            r"(?:PTX|ptxas)[^\n]*Unsupported \.version|Call to undefined function '__nvvm_reflect'", confidence=LIKELY
        ),
    ),
)

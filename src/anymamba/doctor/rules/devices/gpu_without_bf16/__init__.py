"""bfloat16 on a GPU that has none."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Rule, Signature

RULE = Rule(
    code="AM096",
    cause="gpu-without-bf16",
    order=603,
    signatures=(
        Signature(r"Feature '(?:cvt with )?\.?(?:cvt\.|f32\.)?[\w.]*bf16[\w.]*' requires \.target sm_80", bare=True),
        Signature(
            r"[Bb]f(?:loat)?16 is (?:only|not) supported on (?:this|GPUs?|devices?)[^\n]*"
            r"|Bfloat16 is only supported on GPUs with compute capability", confidence=LIKELY,
        ),
        Signature(r"Your setup doesn't support bf16/gpu|Current CUDA Device does not support bfloat16"),
    ),
)

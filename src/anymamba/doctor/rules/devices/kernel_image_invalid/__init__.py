"""The driver cannot load a compiled kernel."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM101",
    cause="kernel-image-invalid",
    order=601,
    signatures=(
        Signature(r"(?:CUDA error|Triton Error \[CUDA\]): device kernel image is invalid", bare=True),
        Signature(r"CUDA_ERROR_INVALID_IMAGE|cudaErrorInvalidKernelImage"),
    ),
)

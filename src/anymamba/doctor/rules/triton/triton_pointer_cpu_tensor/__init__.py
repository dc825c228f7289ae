"""A tensor on the CPU or on another GPU."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Rule, Signature

RULE = Rule(
    code="AM064",
    cause="triton-pointer-cpu-tensor",
    order=622,
    signatures=(Signature(r"Pointer argument \(at \d+\) cannot be accessed from Triton \(cpu tensor\?\)", bare=True),
        Signature(
            r"selective_scan_cuda\.(?:fwd|bwd)(?:[^\n]*\n){1,3}?[^\n]*Expected all tensors to be on the same device[^\n]*", own=True
        ),
        Signature(r"mamba_ssm[^\n]*(?:\n[^\n]*){1,4}?Expected all tensors to be on the same device[^\n]*", own=True, confidence=LIKELY),
    ),
)

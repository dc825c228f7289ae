"""ROCm 6.0's bf16 header."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM041",
    cause="rocm60-bf16-patch",
    order=345,
    signatures=(
        Signature(r"requires a patch to be applied when running on ROCm 6\.0"),
        Signature(r"amd_hip_bf16\.h:\d+:\d+: error"),
    ),
)

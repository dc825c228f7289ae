"""An older mamba-ssm on Triton 3."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Rule, Signature

RULE = Rule(
    code="AM100",
    cause="triton-too-new-for-mamba",
    order=609,
    signatures=(
        Signature(r"module 'triton\.language\.math' has no attribute '\w+'", bare=True),
        Signature(r"module 'triton\.language' has no attribute '(?:libdevice|log1p|dot_scaled|float8e5)'", bare=True),
        Signature(r"cannot import name '(?:libdevice|autotune|heuristics|next_power_of_2)' from 'triton", confidence=LIKELY),
        Signature(r"module 'triton\.(?:runtime|compiler|testing|common)[\w.]*' has no attribute '\w+'", confidence=LIKELY),
    ),
)

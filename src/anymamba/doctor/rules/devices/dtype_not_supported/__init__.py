"""A number format that the official kernels refuse."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM122",
    cause="dtype-not-supported",
    order=634,
    signatures=(
        Signature(
            r"Expected (?:\w+\.scalar_type\(\)|input_type|weight_type|itype|wtype"
            r"|\w+_type) == (?:at::ScalarType::\w+|\w+_type|input_type|\w+\.scalar_type\(\))[^\n]*", own=True,
        ),
        Signature(
            r"(?:selective_scan|causal_conv1d)\w*[^\n]*(?:not implemented for (?:input|weight) type"
            r"|only supports? (?:fp16|float))[^\n]*", own=True,
        ),
    ),
)

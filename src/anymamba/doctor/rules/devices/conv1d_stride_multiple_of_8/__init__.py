"""Sizes that the channel-last convolution cannot take."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM066",
    cause="conv1d-stride-multiple-of-8",
    order=624,
    signatures=(
        Signature(r"causal_conv1d with channel last layout requires strides", own=True),
        Signature(r"causal_conv1d only supports channel dimension divisible by 8", own=True),
        Signature(r"requires strides \(x\.stride\(0\) and x\.stride\(2\)\) to be multiples of 8", own=True),
    ),
)

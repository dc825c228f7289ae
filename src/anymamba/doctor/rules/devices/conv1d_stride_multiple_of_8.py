"""Sizes that the channel-last convolution cannot take."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import (
    ONLY_OFFICIAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM066",
    cause="conv1d-stride-multiple-of-8",
    order=624,
    title=Text(
        "the model's sizes give strides that are no multiple of 8, which causal-conv1d needs",
        "模型尺寸产生的步长不是 8 的倍数，而 causal-conv1d 要求是",
    ),
    why=Text(
        "In Mamba-2 the width 2*d_inner + 2*ngroups*d_state + nheads must be a multiple of 8 with mamba-ssm up to"
        " 2.2.4.",
        "使用 mamba-ssm 2.2.4 及以前的 Mamba-2 时，宽度 2*d_inner + 2*ngroups*d_state + nheads 必须是 8 的倍数。",
    ),
    needed=ONLY_OFFICIAL,
    signatures=(
        Signature(r"causal_conv1d with channel last layout requires strides", own=True),
        Signature(r"causal_conv1d only supports channel dimension divisible by 8", own=True),
        Signature(r"requires strides \(x\.stride\(0\) and x\.stride\(2\)\) to be multiples of 8", own=True),
    ),
    remedies=(
        Remedy(
            Text(
                "Use mamba-ssm 2.2.5 or newer with causal-conv1d 1.5.1 or newer.",
                "使用 mamba-ssm 2.2.5 以上与 causal-conv1d 1.5.1 以上。",
            ),
            ("pip install --no-build-isolation --no-cache-dir {conv_built} {mamba_built}",),
        ),
        Remedy(
            Text(
                "Or choose sizes so that d_model * expand / headdim is a multiple of 8.",
                "或选择尺寸，使 d_model * expand / headdim 为 8 的倍数。",
            )
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/state-spaces/mamba/issues/351", "https://github.com/state-spaces/mamba/pull/713"),
)

"""Model sizes that the official kernels refuse."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import LIKELY, Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM110",
    cause="sizes-not-supported",
    order=632,
    title=Text(
        "the model's sizes are outside what the official kernels take",
        "模型尺寸超出了官方内核的支持范围",
    ),
    why=Text(
        "selective_scan takes d_state up to 256, causal_conv1d a width (d_conv) of 2 to 4, Mamba-2 an inner "
        "width that headdim divides.",
        "selective_scan 的 d_state 最大为 256，causal_conv1d 的宽度（d_conv）为 2 至 4，Mamba-2 的内部宽度必须能"
        "被 headdim 整除。",
    ),
    needed=Text(
        "Yes, in the model's configuration; anymamba takes any d_state and d_conv.",
        "需要：修改模型配置；anymamba 支持任意的 d_state 与 d_conv。",
    ),
    signatures=(
        Signature(r"selective_scan only supports state dimension <= 256", own=True),
        Signature(r"causal_conv1d only supports width between 2 and 4", own=True),
        Signature(r"assert self\.d_ssm % self\.headdim == 0|assert self\.d_inner % self\.headdim == 0", own=True),
        Signature(r"causal_conv1d_cuda[^\n]*\n?[^\n]*Expected (?:width|dim|seqlen)\b[^\n]*", own=True, confidence=LIKELY),
        Signature(r"RuntimeError: (?:This selective_scan|selective_scan\w*|causal_conv1d\w*) only supports [^\n]*", own=True),
    ),
    remedies=(
        Remedy(
            Text(
                "Choose d_conv from 2 to 4, d_state up to 256, and d_model * expand as a multiple of headdim "
                "(64).",
                "取 d_conv 为 2 至 4，d_state 不超过 256，且 d_model * expand 为 headdim（64）的倍数。",
            ),
        ),
        advice.USE_ANYMAMBA,
    ),
)

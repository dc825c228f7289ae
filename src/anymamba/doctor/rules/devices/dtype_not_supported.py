"""A number format that the official kernels refuse."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM122",
    cause="dtype-not-supported",
    order=634,
    title=Text(
        "a tensor has a number format that the official kernel does not take",
        "张量的数值格式不被官方内核接受",
    ),
    why=Text(
        "selective_scan and causal_conv1d take float32, float16 and bfloat16 inputs, with A, D and dt_bias in "
        "float32 and the convolution's weight in the input's format. Converting the whole model with .half() or "
        ".double(), or mixing autocast with converted weights, breaks that.",
        "selective_scan 与 causal_conv1d 接受 float32、float16、bfloat16 的输入，其中 A、D、dt_bias 须为 float32"
        "，卷积权重须与输入同格式。用 .half() 或 .double() 转换整个模型，或将 autocast 与转换后的权重混用，会破坏"
        "这一点。",
    ),
    needed=Text(
        "Yes, in the program; anymamba takes mixtures of float32, float16 and bfloat16.",
        "需要修改程序；anymamba 可混用 float32、float16 与 bfloat16。",
    ),
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
    remedies=(
        Remedy(
            Text(
                "Leave the weights in float32 and use torch.autocast for the rest.",
                "权重保持 float32，其余使用 torch.autocast。",
            ),
        ),
        advice.USE_ANYMAMBA,
    ),
)

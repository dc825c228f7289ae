"""The host compiler is too old for torch's headers."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, POSSIBLE, Rule, Signature

RULE = Rule(
    code="AM025",
    cause="gcc-too-old",
    order=321,
    signatures=(
        Signature(
            r"#error:? \"?(?:You need C\+\+17 to compile PyTorch|C\+\+17 or later compatible compiler is required)",
            bare=True,
        ),
        Signature(r"You need C\+\+1[47] to compile PyTorch", bare=True),
        Signature(
            r"fatal error: (?:stdatomic\.h|filesystem|charconv|string_view|optional|variant): (?:No such file"
            r"|没有那个文件)"
        ),
        Signature(r"unrecognized command[- ]line option ['\"‘“]?-std=(?:c|gnu)\+\+1[47]"),
        Signature(r"无法识别的命令行选项[‘“]-std=(?:c|gnu)\+\+1[47]"),
        Signature(r"Your compiler \([^)\n]*\) may be ABI-incompatible with PyTorch", confidence=POSSIBLE),
        Signature(r"less than the minimum required version by CUDA", bare=True),
        Signature(r"DispatchKeySet\.h:\d+:\d+: error: overflow in constant expression", confidence=LIKELY),
    ),
)

"""MSVC rejects the constexpr of the template switches."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import (
    LIKELY,
    OPTIONAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM035",
    cause="msvc-constexpr-unsupported",
    order=343,
    title=Text(
        "the Visual C++ compiler rejects constexpr values inside the template switches of these sources",
        "Visual C++ 编译器不接受这些源码中模板分支里的 constexpr 值",
    ),
    why=Text(
        "selective_scan_fwd_kernel.cuh and the backward one pass constexpr values through nested lambdas"
        " (BOOL_SWITCH). gcc accepts that, MSVC does not (C2975).",
        "selective_scan_fwd_kernel.cuh 与反向的对应文件通过嵌套 lambda（BOOL_SWITCH）传递 constexpr 值。gcc 接受，"
        "MSVC 不接受（C2975）。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(r"error C2975: ?['\"“‘]?(?:k[A-Z]\w*|\w+)['\"”’]?[^\n]*"),
        Signature(r"(?:expected compile-time constant expression|应为编译时常量表达式|必須是編譯時期常數運算式)"),
        Signature(r"error C3493: ?['\"“‘]?k\w+['\"”’]?[^\n]*|error C2131[^\n]*k[A-Z]\w+", confidence=LIKELY),
    ),
    remedies=(
        advice.USE_ANYMAMBA,
        advice.WSL,
        Remedy(
            Text(
                "In a checkout, write `static constexpr` for `constexpr` in csrc/selective_scan/static_switch.h and"
                " in the two *_kernel.cuh files, then build it.",
                "在源码目录中，把 csrc/selective_scan/static_switch.h 与两个 *_kernel.cuh 里的 `constexpr` 改为"
                " `static constexpr`，然后构建。",
            ),
            ("MAMBA_FORCE_BUILD=TRUE pip install --no-build-isolation .",),
        ),
    ),
    explains=("log-truncated",),
    links=("https://github.com/MzeroMiko/VMamba/issues/95", "https://github.com/state-spaces/mamba/issues/12"),
)

"""MSVC's cmath has no M_LOG2E."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import (
    OPTIONAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM036",
    cause="msvc-m-log2e-undefined",
    order=342,
    title=Text("M_LOG2E is undefined: Microsoft's <cmath> hides it", "M_LOG2E 未定义：微软的 <cmath> 默认不提供它"),
    why=Text(
        "The CUDA sources use M_LOG2E, which Microsoft's headers define only with _USE_MATH_DEFINES.",
        "CUDA 源码使用了 M_LOG2E，而微软的头文件只有在定义 _USE_MATH_DEFINES 时才提供。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(r"identifier ['\"“]M_LOG2E['\"”] is undefined", own=True),
        Signature(r"['\"“‘]?M_LOG2E['\"”’]?: ?(?:undeclared identifier|未声明的标识符|was not declared)", own=True),
        Signature(r"(?:error[^\n]*M_LOG2E|未定义标识符 ['\"“]?M_LOG2E)", own=True),
    ),
    remedies=(
        advice.USE_ANYMAMBA,
        Remedy(
            Text(
                "In a checkout, put these three lines at the top of"
                " csrc/selective_scan/selective_scan_fwd_kernel.cuh and selective_scan_bwd_kernel.cuh, then build:"
                " #ifndef M_LOG2E / #define M_LOG2E 1.4426950408889634074 / #endif",
                "在源码目录中，把以下三行加到 csrc/selective_scan/selective_scan_fwd_kernel.cuh 与"
                " selective_scan_bwd_kernel.cuh 的开头，然后构建："
                "#ifndef M_LOG2E / #define M_LOG2E 1.4426950408889634074 / #endif",
            ),
            ("MAMBA_FORCE_BUILD=TRUE pip install --no-build-isolation .",),
        ),
        advice.WSL,
    ),
    explains=("log-truncated",),
    links=("https://github.com/MzeroMiko/VMamba/issues/84", "https://github.com/MzeroMiko/VMamba/issues/95"),
)

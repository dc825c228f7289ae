"""gcc 4.8 cannot compile Triton's launcher."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM061",
    cause="triton-host-gcc-too-old",
    order=606,
    signatures=(
        Signature(
            r"main\.c:\d+:\d+: (?:error|错误)[:：] ?['‘`\"“]?for['’\"”]? ?(?:loop initial declarations|循环初始)",
            bare=True,
        ),
        Signature(r"loop initial declarations are only allowed in C99"),
    ),
)

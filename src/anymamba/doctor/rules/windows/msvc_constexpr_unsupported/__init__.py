"""MSVC rejects the constexpr of the template switches."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Rule, Signature

RULE = Rule(
    code="AM035",
    cause="msvc-constexpr-unsupported",
    order=343,
    signatures=(
        Signature(r"error C2975: ?['\"“‘]?(?:k[A-Z]\w*|\w+)['\"”’]?[^\n]*"),
        Signature(r"(?:expected compile-time constant expression|应为编译时常量表达式|必須是編譯時期常數運算式)"),
        Signature(r"error C3493: ?['\"“‘]?k\w+['\"”’]?[^\n]*|error C2131[^\n]*k[A-Z]\w+", confidence=LIKELY),
    ),
    explains=("log-truncated",),
)

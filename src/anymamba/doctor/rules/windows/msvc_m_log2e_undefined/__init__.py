"""MSVC's cmath has no M_LOG2E."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM036",
    cause="msvc-m-log2e-undefined",
    order=342,
    signatures=(
        Signature(r"identifier ['\"“]M_LOG2E['\"”] is undefined", own=True),
        Signature(r"['\"“‘]?M_LOG2E['\"”’]?: ?(?:undeclared identifier|未声明的标识符|was not declared)", own=True),
        Signature(r"(?:error[^\n]*M_LOG2E|未定义标识符 ['\"“]?M_LOG2E)", own=True),
    ),
    explains=("log-truncated",),
)

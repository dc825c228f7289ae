"""Python.h is not installed."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM077",
    cause="python-headers-missing",
    order=331,
    signatures=(
        Signature(r"(?:fatal error|致命错误)[:：] ?(?:Python\.h|pyconfig\.h|crypt\.h): ?(?:No such file|没有那个文件)"),
        Signature(r"Cannot open include file: ?['\"]Python\.h['\"]|cannot find -lpython3"),
    ),
)

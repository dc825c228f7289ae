"""tilelang 0.1.8 and a newer apache-tvm-ffi."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Rule, Signature

RULE = Rule(
    code="AM057",
    cause="tvm-ffi-tilelang-conflict",
    order=536,
    signatures=(
        Signature(r"'_NestedLoopCheckVisitor' object has no attribute '_inst'", own=True),
        Signature(r"attribute '__dict__' of 'type' objects is not writable", bare=True),
        Signature(r"TypeAttr `?__ffi_repr__`? is already registered", own=True),
        Signature(
            r"(?:tvm_ffi|tilelang)[\\/](?:.|\n){0,400}?(?:AttributeError|TypeError|RuntimeError)", confidence=LIKELY
        ),
    ),
    explains=("broken-package-reported-missing", "mamba3-dependency-broken"),
)

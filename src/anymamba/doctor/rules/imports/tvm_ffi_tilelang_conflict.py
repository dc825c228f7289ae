"""tilelang 0.1.8 and a newer apache-tvm-ffi."""

from __future__ import annotations

from anymamba.doctor.rule import (
    LIKELY,
    ONLY_OFFICIAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM057",
    cause="tvm-ffi-tilelang-conflict",
    order=536,
    title=Text(
        "tilelang 0.1.8 does not work with the installed apache-tvm-ffi",
        "tilelang 0.1.8 与已安装的 apache-tvm-ffi 不兼容",
    ),
    why=Text(
        "mamba-ssm 2.3.2.post1 pins tilelang 0.1.8, which breaks with apache-tvm-ffi 0.1.10 and newer; git main"
        " allows up to 0.1.12.",
        "mamba-ssm 2.3.2.post1 固定 tilelang 0.1.8，而它无法与 apache-tvm-ffi 0.1.10 及以后版本一起使用；git 主线却"
        "允许到 0.1.12。",
    ),
    needed=ONLY_OFFICIAL,
    signatures=(
        Signature(r"'_NestedLoopCheckVisitor' object has no attribute '_inst'", own=True),
        Signature(r"attribute '__dict__' of 'type' objects is not writable", bare=True),
        Signature(r"TypeAttr `?__ffi_repr__`? is already registered", own=True),
        Signature(
            r"(?:tvm_ffi|tilelang)[\\/](?:.|\n){0,400}?(?:AttributeError|TypeError|RuntimeError)", confidence=LIKELY
        ),
    ),
    remedies=(
        Remedy(
            Text("Use an older apache-tvm-ffi.", "使用较旧的 apache-tvm-ffi。"),
            ('pip install "apache-tvm-ffi<=0.1.9"',),
        ),
    ),
    explains=("broken-package-reported-missing", "mamba3-dependency-broken"),
    links=("https://github.com/state-spaces/mamba/issues/907", "https://github.com/state-spaces/mamba/pull/995"),
)

"""One of Mamba-3's dependencies does not import, and import mamba_ssm fails with it."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Against, Rule, Signature

RULE = Rule(
    code="AM102",
    cause="mamba3-dependency-broken",
    order=537,
    signatures=(
        Signature(
            r"(?:ModuleNotFoundError|ImportError): No module named '?(?:quack|cutlass|tilelang|tvm_ffi"
            r"|tvm)(?:\.[\w.]+)?'?", bare=True,
        ),
        Signature(r"cannot import name '\w+' from '(?:quack|cutlass|tilelang|tvm_ffi|tvm)[\w.]*'", bare=True),
        Signature(r"module '(?:quack|cutlass|tilelang|tvm_ffi|tvm)[\w.]*' has no attribute '\w+'", bare=True),
        Signature(
            r"(?:[\\/]quack[\\/]|nvidia_cutlass_dsl|[\\/]cutlass[\\/]|[\\/]tilelang[\\/])(?:."
            r"|\n){0,500}?\w+Error: [^\n]*", confidence=LIKELY,
        ),
        Signature(
            r"OSError: [^\n]*(?:tilelang|libtvm|tvm_ffi)[^\n]*cannot open shared object"
            r"|OSError: [^\n]*(?:libtvm\w*|libtilelang\w*)\.so",
        ),
    ),
    explains=("broken-package-reported-missing",),
    against=(
        Against(r"[\\/](?:vllm|sglang|flash_attn|tensorrt_llm)[\\/]", near=6),
    ),
)

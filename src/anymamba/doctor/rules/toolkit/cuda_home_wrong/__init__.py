"""CUDA_HOME names a folder without nvcc."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM008",
    cause="cuda-home-wrong",
    order=105,
    signatures=(
        Signature(
            r"(?:FileNotFoundError|NotADirectoryError|PermissionError): \[Errno \d+\] (?:No such file or directory"
            r"|Not a directory|Permission denied|没有那个文件或目录|不是目录): '[^'\n]*nvcc(?:\.exe)?'"
        ),
        Signature(r"error: \[Errno 2\] No such file or directory: '[^'\n]*bin/nvcc'"),
        Signature(
            r"(?:/bin/sh: (?:\d+: |line \d+: )?|FAILED: )[^\n ]*/bin/nvcc: (?:not found|No such file or directory"
            r"|没有那个文件或目录)"
        ),
        Signature(
            r"get_cuda_bare_metal_version(?:.|\n){0,700}?(?:FileNotFoundError|NotADirectoryError): \[(?:WinError"
            r"|Errno) \d+\]"
        ),
    ),
)

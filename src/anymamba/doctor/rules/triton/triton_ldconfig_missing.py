"""Triton asks /sbin/ldconfig."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import (
    NECESSARY,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM062",
    cause="triton-ldconfig-missing",
    order=605,
    title=Text(
        "Triton looks for libcuda with /sbin/ldconfig, which this system does not have",
        "Triton 通过 /sbin/ldconfig 查找 libcuda，而本系统没有它",
    ),
    why=Text(
        "NixOS, minimal containers and some clusters have no /sbin/ldconfig.",
        "NixOS、精简容器和部分集群没有 /sbin/ldconfig。",
    ),
    needed=NECESSARY,
    signatures=(
        Signature(r"(?:No such file or directory|没有那个文件或目录): '(?:/sbin/)?ldconfig'", bare=True),
        Signature(r"/sbin/ldconfig[^\n]*(?:not found|returned non-zero|No such file)"),
    ),
    remedies=(
        Remedy(
            Text("Name the folder of libcuda.so.", "指明 libcuda.so 所在的目录。"),
            (
                "export TRITON_LIBCUDA_PATH=$(dirname $(find / -name 'libcuda.so*' -not -path '*/stubs/*'"
                " 2>/dev/null | head -1))",
            ),
            systems=("linux", "wsl"),
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/state-spaces/mamba/issues/363",),
)

"""gcc 4.8 cannot compile Triton's launcher."""

from __future__ import annotations

from anymamba.doctor.rule import (
    NECESSARY,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM061",
    cause="triton-host-gcc-too-old",
    order=606,
    title=Text("the system's gcc is too old to compile Triton's launcher", "系统的 gcc 太旧，无法编译 Triton 的启动器"),
    why=Text(
        "Triton compiles a small C file with the system's compiler; gcc 4.8 does not know C99 by default.",
        "Triton 用系统编译器编译一个小的 C 文件；gcc 4.8 默认不支持 C99。",
    ),
    needed=NECESSARY,
    signatures=(
        Signature(
            r"main\.c:\d+:\d+: (?:error|错误)[:：] ?['‘`\"“]?for['’\"”]? ?(?:loop initial declarations|循环初始)",
            bare=True,
        ),
        Signature(r"loop initial declarations are only allowed in C99"),
    ),
    remedies=(
        Remedy(
            Text("Name a newer compiler.", "指定较新的编译器。"),
            ("conda install -y -c conda-forge gcc_linux-64=11", "export CC=$CONDA_PREFIX/bin/x86_64-conda-linux-gnu-gcc"),
            systems=("linux", "wsl"),
            managers=("conda",),
        ),
        Remedy(
            Text("Name a newer compiler.", "指定较新的编译器。"),
            ("sudo apt-get install -y gcc-11", "export CC=gcc-11"),
            systems=("linux", "wsl"),
            managers=("pip", "uv", "poetry"),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/issues/428",),
)

"""No gcc or g++ at all."""

from __future__ import annotations

from anymamba.doctor.rule import (
    OPTIONAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM076",
    cause="host-compiler-missing",
    order=324,
    title=Text("there is no C/C++ compiler on this system", "系统中没有 C/C++ 编译器"),
    why=Text(
        "nvcc, torch's build tools and Triton's launcher call gcc or g++ (cc, c++).",
        "nvcc、torch 的构建工具与 Triton 的启动器都要调用 gcc 或 g++（cc、c++）。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(r"error: command '?[\w/.-]*(?:gcc|g\+\+|cc|c\+\+|clang)'? failed: No such file or directory"),
        Signature(r"unable to execute '?[\w/.-]*(?:gcc|g\+\+|c\+\+)'?: No such file or directory"),
        Signature(
            r"(?:/bin/sh: (?:\d+: |line \d+: )?|nvcc fatal *: )[^\n]*(?:gcc|g\+\+|c\+\+|cc1plus)[^\n]*(?:not found"
            r"|No such file|command not found)|nvcc fatal *: Failed to preprocess host compiler properties"
        ),
        Signature(r"Failed to find C compiler\. Please specify via CC environment variable"),
        Signature(r"(?:gcc|g\+\+|c\+\+): fatal error: cannot execute ['‘]?cc1plus|error trying to exec 'cc1plus'"),
        Signature(r"FileNotFoundError: \[Errno 2\] No such file or directory: '(?:gcc|g\+\+|c\+\+|cc|which)'"),
    ),
    remedies=(
        Remedy(
            Text("Install one.", "安装编译器。"), ("sudo apt-get install -y build-essential",), systems=("linux", "wsl")
        ),
        Remedy(
            Text("Without root rights.", "没有 root 权限时。"),
            ("conda install -y -c conda-forge gxx_linux-64=12",),
            systems=("linux", "wsl"),
            managers=("conda",),
        ),
    ),
    explains=("log-truncated",),
)

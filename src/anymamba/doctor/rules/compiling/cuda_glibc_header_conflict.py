"""glibc 2.41 and CUDA declare the same functions differently."""

from __future__ import annotations

from anymamba.doctor.rule import (
    OPTIONAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM079",
    cause="cuda-glibc-header-conflict",
    order=333,
    title=Text("this system's glibc is newer than the CUDA headers allow", "本系统的 glibc 比 CUDA 头文件所支持的更新"),
    why=Text(
        "glibc 2.41 added sinpi, cospi and others; the headers of CUDA 12 declare them without noexcept.",
        "glibc 2.41 新增了 sinpi、cospi 等函数，而 CUDA 12 的头文件对它们的声明不含 noexcept。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(
            r"exception specification is incompatible with that of previous function \"(?:cospi|sinpi|cospif|sinpif"
            r"|rsqrt|rsqrtf)\""
        ),
        Signature(r"(?:math_functions\.h|mathcalls\.h)[^\n]*(?:cospi|sinpi|rsqrt)[^\n]*"),
    ),
    remedies=(
        Remedy(
            Text(
                "Use CUDA 13, or build in a container with an older system.", "使用 CUDA 13，或在系统较旧的容器中构建。"
            ),
            ("docker run --gpus all -it pytorch/pytorch:2.8.0-cuda12.8-cudnn9-devel",),
        ),
        Remedy(
            Text(
                "Or a conda environment with its own compiler and C library.", "或使用自带编译器与 C 库的 conda 环境。"
            ),
            ("conda install -y -c conda-forge -c nvidia gxx_linux-64=12 sysroot_linux-64=2.28 cuda-toolkit={toolkit}",),
            systems=("linux", "wsl"),
            managers=("conda",),
        ),
    ),
    explains=("log-truncated",),
)

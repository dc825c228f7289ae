"""The host compiler is too old for torch's headers."""

from __future__ import annotations

from anymamba.doctor.rule import (
    LIKELY,
    OPTIONAL,
    POSSIBLE,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM025",
    cause="gcc-too-old",
    order=321,
    title=Text("gcc is too old for this torch, which needs C++17", "gcc 版本太旧，该 torch 需要 C++17"),
    why=Text(
        "torch 2.1 and newer need gcc 9 or newer. CentOS 7 and many clusters have 4.8 to 8 as the default.",
        "torch 2.1 及以后需要 gcc 9 或更高版本。CentOS 7 和许多集群默认的是 4.8 到 8。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(
            r"#error:? \"?(?:You need C\+\+17 to compile PyTorch|C\+\+17 or later compatible compiler is required)",
            bare=True,
        ),
        Signature(r"You need C\+\+1[47] to compile PyTorch", bare=True),
        Signature(
            r"fatal error: (?:stdatomic\.h|filesystem|charconv|string_view|optional|variant): (?:No such file"
            r"|没有那个文件)"
        ),
        Signature(r"unrecognized command[- ]line option ['\"‘“]?-std=(?:c|gnu)\+\+1[47]"),
        Signature(r"无法识别的命令行选项[‘“]-std=(?:c|gnu)\+\+1[47]"),
        Signature(r"Your compiler \([^)\n]*\) may be ABI-incompatible with PyTorch", confidence=POSSIBLE),
        Signature(r"less than the minimum required version by CUDA", bare=True),
        Signature(r"DispatchKeySet\.h:\d+:\d+: error: overflow in constant expression", confidence=LIKELY),
    ),
    remedies=(
        Remedy(
            Text("A newer compiler without root rights.", "无需 root 权限的较新编译器。"),
            (
                "conda install -y -c conda-forge gxx_linux-64=11",
                "export CC=$CONDA_PREFIX/bin/x86_64-conda-linux-gnu-gcc && export"
                " CXX=$CONDA_PREFIX/bin/x86_64-conda-linux-gnu-g++",
                "pip install --no-build-isolation {package}",
            ),
            systems=("linux", "wsl"),
            managers=("conda",),
        ),
        Remedy(
            Text("A newer compiler beside yours.", "在现有编译器之外安装较新的版本。"),
            (
                "sudo apt-get install -y gcc-11 g++-11",
                "CC=gcc-11 CXX=g++-11 pip install --no-build-isolation {package}",
            ),
            systems=("linux", "wsl"),
            managers=("pip", "uv", "poetry"),
        ),
        Remedy(
            Text("On CentOS or RHEL.", "在 CentOS 或 RHEL 上。"),
            ("source /opt/rh/devtoolset-11/enable || source /opt/rh/gcc-toolset-11/enable", "gcc --version",),
            systems=("linux",),
        ),
    ),
    links=("https://github.com/hustvl/Vim/issues/63", "https://github.com/Dao-AILab/causal-conv1d/issues/17"),
)

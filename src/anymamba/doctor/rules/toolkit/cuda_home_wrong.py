"""CUDA_HOME names a folder without nvcc."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import (
    OPTIONAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM008",
    cause="cuda-home-wrong",
    order=105,
    title=Text("CUDA_HOME names a folder that has no bin/nvcc", "CUDA_HOME 指向的目录里没有 bin/nvcc"),
    why=Text(
        "setup.py runs CUDA_HOME/bin/nvcc. The folder may hold libraries only (conda's cudatoolkit), be left over"
        " from a removed toolkit or a"
        " module that is not loaded, or the variable may contain a colon or a typing error.",
        "setup.py 会运行 CUDA_HOME/bin/nvcc。该目录可能只有库（conda 的 cudatoolkit），可能属于已删除的工具包或未加"
        "载的模块，也可能是变量里有冒号或拼写错误。",
    ),
    needed=OPTIONAL,
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
    remedies=(
        Remedy(
            Text("Set CUDA_HOME from the nvcc that works.", "根据可用的 nvcc 设置 CUDA_HOME。"),
            ("which nvcc && export CUDA_HOME=$(dirname $(dirname $(readlink -f $(which nvcc)))) && echo $CUDA_HOME",),
            powershell=("Get-Command nvcc", '$env:CUDA_HOME="$env:CUDA_PATH"; & "$env:CUDA_HOME\\bin\\nvcc" -V'),
        ),
        advice.DEVEL_IMAGE,
        advice.NVCC_CONDA,
        advice.NVCC_APT,
        advice.NVCC_WINDOWS,
    ),
    links=("https://github.com/state-spaces/mamba/issues/55", "https://github.com/state-spaces/mamba/issues/186"),
)

"""A ROCm torch, and no hipcc."""

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
    code="AM009",
    cause="rocm-hipcc-missing",
    order=90,
    title=Text("the build runs with a ROCm torch and finds no hipcc", "构建使用 ROCm 版 torch，但找不到 hipcc"),
    why=Text(
        "For an AMD GPU setup.py calls hipcc from ROCM_PATH. It is missing or not on PATH.",
        "对 AMD 显卡，setup.py 会调用 ROCM_PATH 下的 hipcc；它不存在或不在 PATH 中。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(r"hip installation not found: .{0,80}ROCM_PATH=", own=True),
        Signature(r"was requested, but hipcc was not found", own=True),
        Signature(r"TypeError: '<' not supported between instances of 'NoneType' and 'Version'"),
        Signature(r"(?:FileNotFoundError|error): \[Errno 2\] No such file or directory: '[^'\n]*hipcc'"),
    ),
    remedies=(
        Remedy(
            Text("Name the ROCm folder and build without isolation.", "指明 ROCm 目录并关闭隔离进行构建。"),
            (
                "export ROCM_PATH=/opt/rocm && export PATH=/opt/rocm/bin:$PATH && hipcc --version",
                "pip install --no-build-isolation {package}",
            ),
            systems=("linux", "wsl"),
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/state-spaces/mamba/blob/v2.3.1/setup.py",),
)

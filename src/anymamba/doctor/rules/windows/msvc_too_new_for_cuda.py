"""Visual Studio newer than nvcc accepts."""

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
    code="AM075",
    cause="msvc-too-new-for-cuda",
    order=323,
    title=Text(
        "this Visual Studio is newer (or older) than nvcc accepts", "该 Visual Studio 版本超出了 nvcc 支持的范围"
    ),
    why=Text(
        "nvcc checks the compiler's version: CUDA 11 and 12.0 to 12.3 stop at Visual Studio 17.9, and no 12.x"
        " accepts Visual Studio 2026.",
        "nvcc 会检查编译器版本：CUDA 11 与 12.0 至 12.3 只支持到 Visual Studio 17.9，所有 12.x 都不支持 Visual"
        " Studio 2026。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(r"unsupported Microsoft Visual Studio version! Only the versions between", bare=True),
        Signature(r"STL1002: Unexpected compiler version, expected CUDA [\d.]+ or newer"),
        Signature(r"error C1189: #error: *-- unsupported Microsoft Visual Studio version"),
    ),
    remedies=(
        advice.USE_ANYMAMBA,
        Remedy(
            Text(
                "Install the toolset that this nvcc knows (14.38, of Visual Studio 2022 17.8) beside yours, and build from its prompt.",
                "在现有版本旁另装此 nvcc 支持的工具集（14.38，即 Visual Studio 2022 17.8），并在其命令环境中构建。",
            ),
            (),
            (
                'winget install Microsoft.VisualStudio.2022.BuildTools --override "--wait --add'
                ' Microsoft.VisualStudio.Workload.VCTools --add Microsoft.VisualStudio.Component.VC.14.38.17.8.x86.x64"',
                'Import-Module "${env:ProgramFiles(x86)}\\Microsoft Visual Studio\\2022\\BuildTools\\Common7\\Tools\\'
                'Microsoft.VisualStudio.DevShell.dll"',
                'Enter-VsDevShell -VsInstallPath "${env:ProgramFiles(x86)}\\Microsoft Visual Studio\\2022\\BuildTools"'
                ' -DevCmdArguments "-arch=x64 -vcvars_ver=14.38"',
                '$env:DISTUTILS_USE_SDK="1"; pip install --no-build-isolation {package}',
            ),
            systems=("windows",),
        ),
        Remedy(
            Text(
                "Only if that is impossible: let nvcc pass over its check; newer headers then often fail further on.",
                "仅在无法做到时：让 nvcc 跳过检查，但较新的头文件之后往往仍会出错。",
            ),
            (),
            ('$env:NVCC_PREPEND_FLAGS="-allow-unsupported-compiler"; pip install --no-build-isolation {package}',),
            systems=("windows",),
        ),
    ),
    explains=("log-truncated",),
)

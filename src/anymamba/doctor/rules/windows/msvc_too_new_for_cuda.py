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
            Text("Let nvcc pass over the check.", "让 nvcc 跳过检查。"),
            (),
            ('$env:NVCC_PREPEND_FLAGS="-allow-unsupported-compiler"; pip install --no-build-isolation {package}',),
            systems=("windows",),
        ),
        Remedy(
            Text("Or install the 14.38 tools beside yours and select them.", "或另装 14.38 版工具集并选用它。"),
            (),
            (
                "& 'C:\\Program Files\\Microsoft Visual"
                " Studio\\2022\\Community\\VC\\Auxiliary\\Build\\vcvarsall.bat' x64 -vcvars_ver=14.38",
            ),
            systems=("windows",),
        ),
    ),
    explains=("log-truncated",),
)

"""No Visual C++ compiler, or a shell that does not know it."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    LIKELY,
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
    match_signatures,
)


def _log(log: Log) -> Optional[Match]:
    return match_signatures(
        log,
        (
            Signature(r"Microsoft Visual C\+\+ (?:14\.\d+|\d+\.\d+)(?: or greater)? is required"),
            Signature(
                r"error: command '?(?:cl|cl\.exe)'? failed: (?:None|No such file|The system cannot find|系统找不到)"
            ),
            Signature(r"nvcc fatal *: Cannot find compiler 'cl\.exe' in PATH"),
            Signature(
                r"(?:subprocess\.CalledProcessError: Command '?\[?'?where'?,? '?cl'?|INFO: Could not find files for"
                r" the given pattern|信息: 用提供的模式无法找到文件)"
            ),
            Signature(
                r"Unable to find a compatible Visual Studio installation|DISTUTILS_USE_SDK is not set so assuming"
                r"|VC environment is activated but DISTUTILS_USE_SDK is not set|无法找到 vcvarsall\.bat|Unable to"
                r" find vcvarsall\.bat"
            ),
            Signature(r"'cl' (?:is not recognized as an internal or external command|不是内部或外部命令)"),
        ),
    )


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    if (
        facts["system"]["kind"] == "windows"
        and facts["gpu"]["nvidia"]
        and not facts["packages"]["working"]
        and not facts["compiler"].get("msvc")
    ):
        return Match((), LIKELY, None, ("cl.exe: not found",))
    return None


RULE = Rule(
    code="AM034",
    cause="msvc-missing",
    order=322,
    title=Text("the Visual C++ compiler (cl.exe) was not found", "找不到 Visual C++ 编译器（cl.exe）"),
    why=Text(
        "nvcc on Windows needs Microsoft's C++ compiler. It is not installed, or this shell was not set up for it."
        " Even with it the CUDA sources need changes on Windows.",
        "Windows 上的 nvcc 需要微软的 C++ 编译器：要么没有安装，要么当前终端没有初始化其环境。即便有了它，CUDA 源码"
        "在 Windows 上仍需修改。",
    ),
    needed=OPTIONAL,
    log=_log,
    machine=_machine,
    remedies=(
        advice.USE_ANYMAMBA,
        Remedy(
            Text(
                'Install "Desktop development with C++", then build from the "x64 Native Tools Command Prompt".',
                "安装“使用 C++ 的桌面开发”，然后在“x64 Native Tools Command Prompt”中构建。",
            ),
            (),
            (
                'winget install Microsoft.VisualStudio.2022.BuildTools --override "--wait --add'
                ' Microsoft.VisualStudio.Workload.VCTools --includeRecommended"',
                '$env:DISTUTILS_USE_SDK="1"; pip install --no-build-isolation {package}',
            ),
            systems=("windows",),
        ),
        advice.WSL,
    ),
    explains=("log-truncated",),
    links=("https://github.com/ChenHongruixuan/ChangeMamba/issues/41",),
)

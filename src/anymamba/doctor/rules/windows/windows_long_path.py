"""A path longer than 260 characters."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    LIKELY,
    OPTIONAL,
    POSSIBLE,
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
            Signature(r"\[WinError 206\]|文件名或扩展名太长"),
            Signature(
                r"HINT: This error might have occurred since this system does not have Windows Long Path support"
                r" enabled"
            ),
            Signature(
                r"The filename or extension is too long|unable to create file [^\n]*: Filename too long|error:"
                r" cannot create directory at '[^'\n]*': Filename too long"
            ),
            Signature(
                r"fatal error C1083: [^\n]{240,}: No such file or directory|nvcc[^\n]*The command line is too long"
                r"|命令行太长|输入行太长",
                confidence=LIKELY,
            ),
            Signature(
                r"ninja: (?:error|fatal): (?:Stat|mkdir|WriteFile|CreateProcess)\([^\n]*\): (?:Filename longer than"
                r" 260 characters|The filename or extension is too long)"
            ),
        ),
    )


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    if (
        facts["system"]["kind"] == "windows"
        and facts["system"].get("long_paths") is False
        and facts["gpu"]["nvidia"]
        and not facts["packages"]["working"]
    ):
        return Match((), POSSIBLE, None, ("LongPathsEnabled = 0",))
    return None


RULE = Rule(
    code="AM074",
    cause="windows-long-path",
    order=15,
    title=Text(
        "a path is longer than the 260 characters that Windows allows by default",
        "路径超过了 Windows 默认允许的 260 个字符",
    ),
    why=Text(
        "Build folders nest deep. Windows cuts paths at 260 characters unless long paths are switched on.",
        "构建目录层级很深。除非启用长路径，否则 Windows 的路径上限为 260 个字符。",
    ),
    needed=OPTIONAL,
    log=_log,
    machine=_machine,
    remedies=(
        Remedy(
            Text(
                "Switch long paths on (as administrator, then open a new shell), for git as well.",
                "启用长路径（以管理员身份运行，然后重开终端），git 也要设置。",
            ),
            (),
            (
                "New-ItemProperty -Path 'HKLM:\\SYSTEM\\CurrentControlSet\\Control\\FileSystem' -Name"
                " LongPathsEnabled -Value 1 -PropertyType DWORD -Force",
                "git config --global core.longpaths true",
            ),
        ),
        Remedy(
            Text("Or build in a short folder.", "或在较短的目录中构建。"),
            (),
            ('mkdir C:\\t; $env:TMP="C:\\t"; $env:TEMP="C:\\t"; pip install --no-build-isolation {package}',),
        ),
    ),
    links=("https://pip.pypa.io/warnings/enable-long-paths",),
)

"""No Visual C++ compiler, or a shell that does not know it."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Rule, Signature, match_signatures


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


RULE = Rule(code="AM034", cause="msvc-missing", order=322, log=_log, machine=_machine, explains=("log-truncated",))

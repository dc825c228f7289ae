"""A path longer than 260 characters."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, POSSIBLE, Match, Rule, Signature, match_signatures


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


RULE = Rule(code="AM074", cause="windows-long-path", order=15, log=_log, machine=_machine)

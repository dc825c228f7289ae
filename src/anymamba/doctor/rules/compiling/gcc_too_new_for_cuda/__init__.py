"""The host compiler is newer than nvcc accepts."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule, Signature, match_signatures


def _log(log: Log) -> Optional[Match]:
    match = match_signatures(
        log,
        (
            Signature(r"unsupported GNU version! gcc versions later than \d+ are not supported", bare=True),
            Signature(r"current installed version of [^\n]{1,120}? ?\(?[\d.]*\)? is greater than the maximum required version", bare=True),
            Signature(r"greater than the maximum required version by CUDA", bare=True),
            Signature(r"unsupported clang version! clang version must be less than \d+"),
            Signature(r"std_function\.h:\d+:\d+: error: parameter packs not expanded with"),
            Signature(
                r"error: identifier \"_Float(?:32|64|128)x?\" is undefined|identifier \"__builtin_ia32_\w+\" is"
                r" undefined",
                confidence=LIKELY,
            ),
            Signature(
                r"bits/\S+\(\d+\): error: (?:identifier \"__is_(?:pointer|array|member_pointer|volatile"
                r"|convertible)|attribute \"__malloc__\")[^\n]*",
                confidence=LIKELY,
            ),
        ),
    )
    if not match:
        return None
    limit = log.search(r"gcc versions later than (\d+) are not supported") or log.search(
        r"maximum required version by CUDA [\d.]+ \(<?(\d+)"
    )
    if not limit:
        return match
    newest = int(limit.group(1)) - (0 if "later than" in limit.group(0) else 1)
    return match._replace(values={"gcc": str(newest)})


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    nvcc, gcc = facts["cuda"]["used"], facts["compiler"].get("gcc")
    if not nvcc or not gcc or facts["packages"]["working"] or not facts["gpu"]["nvidia"]:
        return None
    limit = facts["compiler"]["limit"]
    if limit and gcc["major"] >= limit:
        return Match(
            (), CERTAIN, {"gcc": str(limit - 1)}, ("gcc {}".format(gcc["version"]), "nvcc {}".format(nvcc["version"]))
        )
    return None


RULE = Rule(code="AM024", cause="gcc-too-new-for-cuda", order=320, log=_log, machine=_machine)

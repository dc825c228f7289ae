"""The compiler was killed for want of memory."""

from __future__ import annotations

import re
from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Rule, Signature, match_signatures

_KILLED = (
    r"Killed signal terminated program cc1plus|[nN]vcc error *: '(?:cicc|cudafe\+\+|ptxas|fatbinary|cc1plus)' died"
    r" due to signal (?:9|11|7)|fatal error: Killed signal"
    r"|(?:g\+\+|c\+\+|gcc|x86_64[\w-]*g\+\+|cc1plus)[^\n]*(?:internal compiler error: )?Killed|cc1plus: out of"
    r" memory allocating|virtual memory exhausted"
    r"|已杀死|编译器的堆空间不足|fatal error C1060|fatal error C1002|out of heap space|LLVM ERROR: out of memory"
    r"|std::bad_alloc"
    r"|页面文件太小|paging file is too small|Out of memory: Killed process \d+ \((?:cicc|cc1plus|ptxas|nvcc|cudafe)"
)


def _log(log: Log) -> Optional[Match]:
    match = match_signatures(
        log,
        (
            Signature(_KILLED),
            Signature(r"^(?:Killed|已杀死|/bin/sh: line \d+: +\d+ Killed[^\n]*)$", confidence=LIKELY),
            Signature(
                r"exit (?:code|status):? ?(?:-9|137)\b|SIGKILL: 9|returned non-zero exit status (?:137|-9)|died"
                r" with <Signals\.SIGKILL",
                confidence=LIKELY,
            ),
        ),
    )
    if not match:
        return None
    around = log.around(match.offsets[0], match.offsets[0], before=200, after=60)
    if re.search(
        r"Building wheel|nvcc|ninja|cc1plus|bdist_wheel|setup\.py|csrc|cl\.exe|build_ext|Failed to build", around
    ):
        return match
    return None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    return None


RULE = Rule(code="AM030", cause="ninja-oom-killed", order=360, log=_log, explains=("log-truncated",))

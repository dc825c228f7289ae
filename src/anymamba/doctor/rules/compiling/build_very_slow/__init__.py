"""Nothing failed: it compiles for half an hour."""

from __future__ import annotations

import re
from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Rule


def _log(log: Log) -> Optional[Match]:
    building = list(re.finditer(r"^Building wheels? for (?:mamba[-_]ssm|causal[-_]conv1d)[^\n]*", log.text, re.M))
    if not building:
        return None
    last = building[-1]
    rest = log.text[last.end() :]
    failed = re.search(
        r"\berror\b|Error:|失败|done|Successfully",
        rest.replace("KeyboardInterrupt", "").replace("ERROR: Operation cancelled by user", ""),
    )
    waiting = re.fullmatch(r"[^\n]*\.\.\. ?(?:[-\\|/] ?)*\s*", log.text[last.start() :])
    told = re.search(
        r"still running|\d+ ?(?:hours?|hrs?|h)\b|\d{2,} ?min|stuck|hang|卡住|卡在|一直|小时|KeyboardInterrupt"
        r"|Operation cancelled by user|\^C",
        rest,
    )
    # an earlier attempt that failed, or a failure told in words, is not a long wait
    failed_before = re.search(
        r"subprocess-exited-with-error|did not run successfully|Failed (?:to build|building)|Could not build|\bfail(?:s|ed)\b|失败",
        log.text,
    )
    if (waiting or told) and not failed and not failed_before:
        return Match((last.start(),), LIKELY)
    return None


RULE = Rule(code="AM031", cause="build-very-slow", order=380, log=_log)

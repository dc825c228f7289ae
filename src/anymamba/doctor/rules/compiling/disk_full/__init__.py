"""No space left while building or downloading."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import Match, Rule, Signature, match_signatures


def _log(log: Log) -> Optional[Match]:
    return match_signatures(
        log,
        (
            Signature(
                r"\[Errno 28\] No space left on device|\[WinError 112\]|No space left on device|设备上没有空间"
                r"|磁盘空间不足|\[Errno 122\] Disk quota exceeded|超出磁盘限额"
            ),
        ),
    )


RULE = Rule(code="AM080", cause="disk-full", order=5, log=_log)

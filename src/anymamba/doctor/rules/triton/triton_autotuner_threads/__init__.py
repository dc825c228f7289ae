"""Triton's autotuner called from several threads."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule


def _log(log: Log) -> Optional[Match]:
    found = log.search(r"TypeError: 'NoneType' object is not a mapping|full_nargs = \{\*\*self\.nargs|pre_hook\(\{\*\*self\.nargs")
    if not found or not (log.has(r"autotuner|self\.nargs|[Tt]riton") or log.names_ours):
        return None
    threads = log.has(r"replica \d+ on device|DataParallel|parallel_apply|[Mm]ulti(?:ple)?[- ]?GPUs?|多卡|多GPU")
    return Match((found.start(),), CERTAIN if threads else LIKELY)


RULE = Rule(code="AM104", cause="triton-autotuner-threads", order=612, log=_log)

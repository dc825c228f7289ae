"""Offsets of the official kernels overflow at large sizes."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, POSSIBLE, Match, Rule, Signature
from anymamba.doctor.tracebacks import near

_KERNELS = (
    r"mamba_ssm|ssd_(?:combined|chunk|state|bmm)|selective_scan|causal_conv1d|mamba_chunk|mamba_split|mamba_inner|_chunk_\w+_kernel"
)


def _log(log: Log) -> Optional[Match]:
    for found in log.finditer(Signature(r"an illegal memory access was encountered|CUDA error: misaligned address")):
        if near(log, found.start(), _KERNELS, before=60, after=2):
            large = log.has(r"\b(?:\d{6,}|[2-9]\d{4,}|\d{2,}[kK] (?:tokens|context)|512k|long(?:er)? (?:sequence|context)|large batch)")
            return Match((found.start(),), LIKELY if large else POSSIBLE)
        if log.names_ours:
            return Match((found.start(),), POSSIBLE)
    return None


RULE = Rule(code="AM103", cause="illegal-memory-access", order=630, log=_log)

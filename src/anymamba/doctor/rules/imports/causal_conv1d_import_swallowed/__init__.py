"""causal-conv1d is installed in a fitting version, and mamba-ssm still has None in place of its functions."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Rule
from anymamba.doctor.rules.imports.causal_conv1d_missing import none_called
from anymamba.doctor.versions import unfit


def _log(log: Log) -> Optional[Match]:
    conv, mamba = log.installations.get("causal-conv1d"), log.installations.get("mamba-ssm")
    if conv is None or mamba and unfit(mamba.version, conv.version):
        return None
    found = log.search(
        r"'NoneType' object has no attribute 'causal_conv1d_\w+'|AssertionError: causal_conv1d_cuda is not available"
        r"|NotImplementedError: The fast path is not available"
    )
    offset = found.start() if found else min((none_called(log) or Match()).offsets, default=None)
    return Match((offset, conv.offset), LIKELY) if offset is not None else None


RULE = Rule(code="AM087", cause="causal-conv1d-import-swallowed", order=429, log=_log)

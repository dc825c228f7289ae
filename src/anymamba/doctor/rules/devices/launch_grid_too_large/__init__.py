"""More blocks than a launch may have."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Rule, Signature
from anymamba.doctor.tracebacks import near


def _log(log: Log) -> Optional[Match]:
    for found in log.finditer(Signature(r"CUDA error: invalid configuration argument|Triton Error \[CUDA\]: invalid argument")):
        if near(log, found.start(), r"selective_scan|causal_conv1d|mamba_ssm|ssd_\w+|layer_norm_fn", before=40, after=2):
            return Match((found.start(),), LIKELY)
    return None


RULE = Rule(code="AM115", cause="launch-grid-too-large", order=631, log=_log)

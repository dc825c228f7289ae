"""torch.compile over the official autograd functions."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Rule
from anymamba.doctor.tracebacks import near


def _log(log: Log) -> Optional[Match]:
    found = log.search(
        r"autograd\.Function with body that accepts non-Tensors|torch\._dynamo\.exc\.Unsupported"
        r"|Unsupported: [^\n]*(?:autograd\.Function|pybind|skipfiles)"
        r"|Attempted to call function marked as skipped[^\n]*"
    )
    if not found or not log.names_ours:
        return None
    ours = r"mamba_ssm|causal_conv1d|selective_scan|ssd_combined"
    return Match((found.start(),), LIKELY) if near(log, found.start(), ours, before=40, after=20) else None


RULE = Rule(code="AM114", cause="torch-compile-graph-break", order=640, log=_log)

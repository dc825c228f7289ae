"""transformers says that it takes the slow path."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import Match, Rule, Signature, match_signatures

_OLD = Signature(r"[Ff]ast path is not available because (?:on )?one of [^\n]* is None", own=True)
_NEW = Signature(
    r"is falling back to its reference PyTorch implementation because `?(?:mamba_ssm|mamba-ssm|causal_conv1d"
    r"|causal-conv1d)`?",
    own=True,
)
_OTHER = Signature(
    r"Fast Mamba kernels are not available|[Mm]amba[^\n]*(?:naive|sequential|slow) (?:implementation|path)|(?:naive"
    r"|sequential) implementation of [Mm]amba",
    own=True,
)
_RAISES = Signature(r"Fast Mamba kernels are not available\. Make sure to they are installed", own=True)


def _log(log: Log) -> Optional[Match]:
    return match_signatures(log, (_OLD, _NEW, _RAISES, _OTHER))


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    return None


RULE = Rule(code="AM067", cause="transformers-fast-path-warning", order=700, log=_log, machine=_machine)

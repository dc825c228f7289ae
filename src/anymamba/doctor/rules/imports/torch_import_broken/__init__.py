"""torch itself does not import."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, Match, Rule, Signature, match_signatures


def _log(log: Log) -> Optional[Match]:
    return match_signatures(
        log,
        (
            Signature(r"(?:ImportError|OSError): \S*torch[\\/]lib[\\/]\S*\.so[^\n]*: undefined symbol: \w+", bare=True),
            Signature(r"libtorch_\w+\.so: undefined symbol: (?:nccl|iJIT|cudnn|cublas|__nvJitLink)\w+", bare=True),
            Signature(r"OSError: \[WinError \d+\] [^\n]*(?:\n[^\n]*)?torch\\+lib\\+\w+\.dll", bare=True),
        ),
    )


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    error = facts["torch"].get("error")
    if not error or "no answer within" in error:
        return None
    return Match((), CERTAIN, None, ("import torch: {}".format(error),))


RULE = Rule(
    code="AM086",
    cause="torch-import-broken",
    order=70,
    log=_log,
    machine=_machine,
    explains=("abi-undefined-symbol",),
)

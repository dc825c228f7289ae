"""git main builds CUDA only when asked to."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, Match, Rule, Signature, match_signatures


def _log(log: Log) -> Optional[Match]:
    return match_signatures(
        log,
        (
            Signature(r"selective_scan_cuda is not installed\. To use Mamba-1", own=True),
            Signature(r"selective_scan_cuda is not installed", own=True),
            Signature(r"reinstall with:? [^\n]*MAMBA_KEEP_CUDA_BUILD", own=True),
        ),
    )


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    package = facts["packages"]["mamba_ssm"]
    if package.get("opt_in") and "selective_scan_cuda" in facts["packages"]["errors"]:
        return Match((), CERTAIN, None, (package["location"], facts["packages"]["errors"]["selective_scan_cuda"]))
    return None


RULE = Rule(
    code="AM048",
    cause="keep-cuda-build-opt-in",
    order=422,
    log=_log,
    machine=_machine,
    explains=("selective-scan-cuda-missing",),
)

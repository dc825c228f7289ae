"""The compiled part was made for another torch."""

from __future__ import annotations

import re
from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule

_SYMBOL = (
    r"(?:selective_scan_cuda\w*|causal_conv1d_cuda|selective_scan\w*|dropout_layer_norm)[^\s:]*\.so:"
    r" undefined symbol: (\S+)"
)


def _log(log: Log) -> Optional[Match]:
    found = log.search(_SYMBOL) or log.search(r"undefined symbol: (_ZN(?:3c10|2at|5torch|K3c10)\S+)")
    if found and re.search(r"undefined symbol: _Z\w{0,3}(?:St|Ss|Sa)", found.group(0)):
        return None  # of the C++ library, not of torch: glibcxx-too-old
    if found and log.concern(found.start(), found.end()) in ("ours", "mentioned"):
        vmamba = re.search(r"selective_scan_cuda_(?:core|oflex|nrow|ndstate)", found.group(0))
        values = {"kernels": "VMamba/kernels/selective_scan"} if vmamba else None
        return Match((found.start(),), CERTAIN if "cuda" in found.group(0) else LIKELY, values)
    windows = log.search(
        r"ImportError: DLL load failed while importing (?:selective_scan_cuda\w*|causal_conv1d_cuda"
        r"|selective_scan\w*): [^\n]*"
    )
    return Match((windows.start(),), LIKELY) if windows else None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    errors = [
        error
        for error in facts["packages"]["errors"].values()
        if "undefined symbol" in error or "DLL load failed" in error
    ]
    return Match((), CERTAIN, None, tuple(errors)) if errors else None


RULE = Rule(
    code="AM043",
    cause="abi-undefined-symbol",
    order=410,
    log=_log,
    machine=_machine,
    explains=("broken-package-reported-missing", "keep-cuda-build-opt-in", "transformers-fast-path-warning"),
)

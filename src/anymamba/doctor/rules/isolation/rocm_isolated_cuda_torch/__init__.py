"""The isolated build on an AMD machine fetched a CUDA torch."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import situation
from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule


def _log(log: Log) -> Optional[Match]:
    if not log.facts["rocm"] and not log.has(r"\bROCm\b|\bAMD\b[^\n]*(?:GPU|Radeon|Instinct)|Radeon|MI[23]\d0X?\b"):
        return None
    version, kind = situation.build_torch(log)
    if kind != "cuda":
        return None
    missing = situation.no_cuda(log)
    offsets = situation.first(log, r"torch\.__version__\s*= ", r"Guessing wheel URL: ")
    if missing:
        return Match(tuple(offsets) + missing.offsets[:1], CERTAIN)
    return Match(tuple(offsets), LIKELY) if log.facts["isolated"] else None


RULE = Rule(
    code="AM039",
    cause="rocm-isolated-cuda-torch",
    order=65,
    log=_log,
    explains=("nvcc-missing", "build-isolation-wrong-torch"),
)

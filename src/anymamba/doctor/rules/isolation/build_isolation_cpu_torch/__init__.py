"""The isolated build fetched a CPU torch; the user's CUDA torch was not seen."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import situation
from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule, match_signatures


def _log(log: Log) -> Optional[Match]:
    match = situation.no_cuda(log)
    if match is None or log.facts["rocm"]:
        return None
    overlay = situation.overlay_torch(log)
    if overlay is None and not log.facts["isolated"]:
        return None
    version, kind = situation.build_torch(log)
    none_version = match_signatures(log, (situation.NONE_VERSION,))
    if kind is None and none_version:
        kind = "cpu"
    if kind is None and overlay is not None and log.facts.get("system") in ("windows", "macos"):
        kind = "cpu"
    if kind != "cpu":
        return None
    if situation.torch_kind(log.facts.get("torch_installed"), None) == "cpu":
        return None
    offsets = (
        ([overlay] if overlay is not None else [])
        + situation.first(log, r"torch\.__version__\s*= ")
        + list(match.offsets[:1])
    )
    return Match(tuple(offsets), CERTAIN if overlay is not None or version else LIKELY)


RULE = Rule(
    code="AM005",
    cause="build-isolation-cpu-torch",
    order=70,
    log=_log,
    explains=("nvcc-missing", "cpu-torch-in-env"),
)

"""The user's own torch has no CUDA."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor import situation
from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule, Signature, match_signatures


def _log(log: Log) -> Optional[Match]:
    plain = match_signatures(log, (Signature(r"Torch not compiled with CUDA enabled"),))
    if plain:
        return plain
    match = situation.no_cuda(log)
    if match is None or log.facts["rocm"]:
        return None
    version, kind = situation.build_torch(log)
    isolated = situation.overlay_torch(log) is not None or log.facts["isolated"]
    none_version = match_signatures(log, (situation.NONE_VERSION,))
    if isolated and (version or none_version) and situation.torch_kind(log.facts.get("torch_installed"), None) != "cpu":
        return None
    if kind != "cpu" and none_version is None:
        return None
    if kind == "cuda":
        return None
    offsets = situation.first(log, r"torch\.__version__\s*= ") + list((none_version or match).offsets[:1])
    return Match(tuple(offsets), CERTAIN if kind == "cpu" or none_version else LIKELY)


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    if facts["gpu"]["nvidia"] and facts["torch"].get("kind") == "cpu":
        return Match(
            (), CERTAIN, None, ("torch {}".format(facts["torch"]["version"]), facts["gpu"]["nvidia"][0]["name"])
        )
    return None


RULE = Rule(code="AM004", cause="cpu-torch-in-env", order=75, log=_log, machine=_machine, explains=("nvcc-missing",))

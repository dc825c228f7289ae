"""The build wants a CUDA compiler and finds none."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor import situation
from anymamba.doctor.installations import working_nvcc
from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, POSSIBLE, Match, Rule
from anymamba.language import _


def _log(log: Log) -> Optional[Match]:
    match = situation.no_cuda(log)
    if match and log.facts["rocm"] and not log.has(r"nvcc was not found|CUDA_HOME"):
        return None
    if match and working_nvcc(log.text) is not None:
        return match._replace(confidence=POSSIBLE)
    return match


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    wanted = facts["gpu"]["nvidia"] and not facts["packages"]["working"] and facts["torch"].get("kind") == "cuda"
    if not wanted or facts["cuda"]["used"]:
        return None
    return Match((), LIKELY, None, (_("no nvcc on PATH, in CUDA_HOME or in /usr/local/cuda*"),))


RULE = Rule(code="AM003", cause="nvcc-missing", order=100, log=_log, machine=_machine)

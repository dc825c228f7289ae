"""nvcc is there and the isolated build does not see it."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import situation
from anymamba.doctor.installations import working_nvcc
from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Rule


def _log(log: Log) -> Optional[Match]:
    match = situation.no_cuda(log)
    nvcc = working_nvcc(log.text)
    if match is None or nvcc is None or log.facts["isolated"] is False:
        return None
    # setup.py without isolation saw this torch: then it is that torch, or CUDA_HOME
    if situation.build_torch(log)[1] == "cpu" and not log.facts["isolated"]:
        return None
    return Match((nvcc, match.offsets[0]), LIKELY)


RULE = Rule(
    code="AM089",
    cause="build-isolation-hides-nvcc",
    order=74,
    log=_log,
    explains=("nvcc-missing", "build-isolation-wrong-torch"),
)

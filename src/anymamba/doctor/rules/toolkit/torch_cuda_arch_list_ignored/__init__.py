"""A variable that setup.py does not read."""

from __future__ import annotations

import re
from typing import Optional

from anymamba.doctor import situation
from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, NOTE, Match, Rule


def _log(log: Log) -> Optional[Match]:
    asked = log.search(r"TORCH_CUDA_ARCH_LIST ?[= ] ?[\"']?([\d.; +PTX]+)")
    if not asked or not log.names_ours:
        return None
    wanted = {number.replace(".", "") for number in re.findall(r"\d+\.\d", asked.group(1))}
    used = set(re.findall(r"-gencode[= ]arch=compute_(\d+)", log.text))
    if wanted and used and used - wanted:
        return Match(tuple(situation.first(log, r"TORCH_CUDA_ARCH_LIST", r"-gencode[= ]arch=compute_")), LIKELY)
    return None


RULE = Rule(code="AM032", cause="torch-cuda-arch-list-ignored", order=830, role=NOTE, log=_log)

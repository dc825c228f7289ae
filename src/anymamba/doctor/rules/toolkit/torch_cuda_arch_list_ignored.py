"""A variable that setup.py does not read."""

from __future__ import annotations

import re
from typing import Optional

from anymamba.doctor import situation
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    HARMLESS,
    LIKELY,
    NOTE,
    Match,
    Remedy,
    Rule,
    Text,
)


def _log(log: Log) -> Optional[Match]:
    asked = log.search(r"TORCH_CUDA_ARCH_LIST ?[= ] ?[\"']?([\d.; +PTX]+)")
    if not asked or not log.names_ours:
        return None
    wanted = {number.replace(".", "") for number in re.findall(r"\d+\.\d", asked.group(1))}
    used = set(re.findall(r"-gencode[= ]arch=compute_(\d+)", log.text))
    if wanted and used and used - wanted:
        return Match(tuple(situation.first(log, r"TORCH_CUDA_ARCH_LIST", r"-gencode[= ]arch=compute_")), LIKELY)
    return None


RULE = Rule(
    code="AM032",
    cause="torch-cuda-arch-list-ignored",
    order=830,
    role=NOTE,
    title=Text("TORCH_CUDA_ARCH_LIST has no effect on these packages", "TORCH_CUDA_ARCH_LIST 对这两个包不起作用"),
    why=Text(
        "setup.py passes its own -gencode flags, and torch then ignores the variable. All versions of both packages.",
        "setup.py 自行传入 -gencode 参数，torch 便会忽略该变量。两个包的所有版本都是如此。",
    ),
    needed=HARMLESS,
    log=_log,
    remedies=(
        Remedy(
            Text(
                "Edit the list of -gencode flags in setup.py of a git checkout, then build it.",
                "修改 git 检出目录里 setup.py 的 -gencode 列表，然后构建。",
            ),
            ("MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE pip install --no-build-isolation .",),
        ),
    ),
    links=(
        "https://github.com/Dao-AILab/causal-conv1d/issues/39",
        "https://github.com/Dao-AILab/causal-conv1d/pull/100",
    ),
)

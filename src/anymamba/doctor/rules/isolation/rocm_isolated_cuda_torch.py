"""The isolated build on an AMD machine fetched a CUDA torch."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice, situation
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    CERTAIN,
    LIKELY,
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Text,
)


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
    title=Text(
        "on this AMD machine the isolated build used a CUDA torch from PyPI",
        "在这台 AMD 机器上，隔离构建使用了 PyPI 的 CUDA 版 torch",
    ),
    why=Text(
        "pip downloaded torch into its temporary build folder. PyPI's torch for Linux is the CUDA build, so"
        " setup.py looked for nvcc in place of hipcc.",
        "pip 把 torch 下载到临时构建目录，而 PyPI 的 Linux 版 torch 是 CUDA 版，于是 setup.py 去找 nvcc，而不是"
        " hipcc。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        Remedy(
            Text("Build with the ROCm torch that you have.", "用你已有的 ROCm 版 torch 构建。"),
            (
                'python -c "import torch; print(torch.__version__, torch.version.hip)"',
                "pip install -U setuptools wheel packaging ninja",
                "pip install --no-build-isolation {package}",
            ),
        ),
        advice.USE_ANYMAMBA,
    ),
    explains=("nvcc-missing", "build-isolation-wrong-torch"),
    links=("https://github.com/state-spaces/mamba/issues/671",),
)

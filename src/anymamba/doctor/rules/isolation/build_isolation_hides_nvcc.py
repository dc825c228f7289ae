"""nvcc is there and the isolated build does not see it."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice, situation
from anymamba.doctor.installations import working_nvcc
from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, OPTIONAL, Match, Remedy, Rule, Text


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
    title=Text(
        "nvcc is installed; the isolated build works with another torch, which does not see it",
        "nvcc 已安装；隔离构建使用的是另一个 torch，因而看不到它",
    ),
    why=Text(
        "Without --no-build-isolation pip builds in a temporary environment with a torch of its own. That torch, not yours, is asked for"
        " the CUDA toolkit; a CPU build of it answers None whatever is installed. NVIDIA's containers (nvcr.io/nvidia/pytorch) and"
        " every machine with a working nvcc need only the option.",
        "不加 --no-build-isolation 时，pip 会在带有另一份 torch 的临时环境中构建，并向那份 torch 询问 CUDA 工具包；若它是 CPU 版，无论装了"
        "什么都会回答 None。NVIDIA 的容器（nvcr.io/nvidia/pytorch）以及 nvcc 可用的机器只需加上该选项。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        advice.NO_ISOLATION,
        Remedy(
            Text("If it still says so: your own torch must have CUDA, and CUDA_HOME must lead to nvcc.",
                 "若仍然如此：你的 torch 必须带有 CUDA，且 CUDA_HOME 必须指向 nvcc。"),
            (
                'python -c "import torch; from torch.utils.cpp_extension import CUDA_HOME; print(torch.version.cuda, CUDA_HOME)"',
            ),
        ),
    ),
    explains=("nvcc-missing", "build-isolation-wrong-torch"),
    links=("https://github.com/state-spaces/mamba/issues/589",),
)

"""The build wants a CUDA compiler and finds none."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor import advice, situation
from anymamba.doctor.installations import working_nvcc
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    LIKELY,
    OPTIONAL,
    POSSIBLE,
    Match,
    Remedy,
    Rule,
    Text,
)


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
    return Match(
        (),
        LIKELY,
        None,
        (
            Text(
                "no nvcc on PATH, in CUDA_HOME or in /usr/local/cuda*",
                "在 PATH、CUDA_HOME 与 /usr/local/cuda* 中都找不到 nvcc",
            ).here(),
        ),
    )


RULE = Rule(
    code="AM003",
    cause="nvcc-missing",
    order=100,
    title=Text("the build found no CUDA compiler (nvcc)", "构建时找不到 CUDA 编译器（nvcc）"),
    why=Text(
        "setup.py asks torch where the CUDA toolkit is. torch answered None, and setup.py then uses a variable that"
        " it never set:"
        " hence \"name 'bare_metal_version' is not defined\" instead of a clear message. pip 26.3 also hides the"
        ' line "nvcc was not'
        ' found". The driver alone, or the CUDA libraries that come with torch, are not enough: nvcc is a part of'
        " the CUDA toolkit."
        " It fails before the prebuilt wheel is looked for, so machines that need no compiler fail as well.",
        "setup.py 向 torch 询问 CUDA 工具包的位置，torch 回答 None，随后 setup.py 用到了一个从未赋值的变量，于是报出"
        ' "name \'bare_metal_version\' is not defined" 这样含糊的错误。pip 26.3 还会隐藏 "nvcc was not found" 这一'
        "行。只有驱动、"
        "或只有 torch 自带的 CUDA 库都不够：nvcc 属于 CUDA 工具包。此错误发生在查找预编译 wheel 之前，因此本不需要"
        "编译器的机器也会失败。",
    ),
    needed=OPTIONAL,
    log=_log,
    machine=_machine,
    remedies=(
        advice.WHEEL_BY_URL,
        advice.WHICH_WHEEL,
        advice.DEVEL_IMAGE,
        advice.NVCC_CONDA,
        advice.NVCC_APT,
        advice.NVCC_WINDOWS,
        Remedy(
            Text(
                "Only the Python and Triton code is wanted (Mamba-2; mamba-ssm up to 2.3.2.post1): skip the CUDA part.",
                "只需要 Python 与 Triton 部分时（Mamba-2；mamba-ssm 2.3.2.post1 及以前）：跳过 CUDA 部分。",
            ),
            ("MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE pip install --no-build-isolation mamba-ssm=={mamba}",),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/issues/602", "https://github.com/state-spaces/mamba/issues/497"),
)

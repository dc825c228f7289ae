"""VMamba's own kernels, which no package brings."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Remedy, Rule, Signature, Text, match_signatures

_NAMES = r"selective_scan_(?:cuda_(?:core|oflex|nrow|ndstate|test|v\d|oflex_rh|core_rh)\w*|vmamba\w*|core|oflex)"


def _log(log: Log) -> Optional[Match]:
    return match_signatures(
        log,
        (
            Signature(r"No module named '?" + _NAMES + "'?", own=True),
            Signature(r"NameError: name '" + _NAMES + "' is not defined", own=True),
            Signature(r"import " + _NAMES + r"[^\n]{0,20}(?:出错|报错|失败|fails?|error)", own=True, confidence=LIKELY),
            Signature(r"(?:找不到|没有|cannot find|can't find|no module)[^\n]{0,12}" + _NAMES, own=True, confidence=LIKELY),
        ),
    )


RULE = Rule(
    code="AM105",
    cause="vmamba-kernels-missing",
    order=421,
    title=Text(
        "the kernels of VMamba (selective_scan_cuda_core, selective_scan_cuda_oflex) are not built; they are not "
        "a part of mamba-ssm",
        "VMamba 自带的内核（selective_scan_cuda_core、selective_scan_cuda_oflex）没有编译；它们不属于 mamba-ssm",
    ),
    why=Text(
        "VMamba and the projects built on it have kernels of their own in the folder kernels/selective_scan of "
        "VMamba. Installing mamba-ssm brings selective_scan_cuda only; the others have to be built from that "
        "folder. Some programs try all of them and run with any one.",
        "VMamba 及其衍生项目在 VMamba 的 kernels/selective_scan 目录中自带内核。安装 mamba-ssm 只会得到 "
        "selective_scan_cuda，其余须从该目录编译。有的程序会依次尝试，有一个即可运行。",
    ),
    needed=Text(
        "Yes, unless the program goes on with another of them.",
        "需要；除非程序能用其中另一个继续运行。",
    ),
    log=_log,
    remedies=(
        Remedy(
            Text(
                "Build them from VMamba's folder (with nvcc and the torch that you run).",
                "从 VMamba 的目录编译（需要 nvcc 与当前使用的 torch）。",
            ),
            (
                "git clone --depth 1 https://github.com/MzeroMiko/VMamba",
                "pip install --no-build-isolation --no-cache-dir VMamba/kernels/selective_scan",
                'python -c "import torch, selective_scan_cuda_oflex"',
            ),
            systems=("linux", "wsl", "windows"),
        ),
        advice.USE_ANYMAMBA,
    ),
    explains=("selective-scan-cuda-missing",),
    links=("https://github.com/MzeroMiko/VMamba/issues/55", "https://github.com/MzeroMiko/VMamba/issues/254",),
)

"""The GPU's architecture is in neither torch nor the extension."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    CERTAIN,
    LIKELY,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
    match_signatures,
)


def _log(log: Log) -> Optional[Match]:
    match = match_signatures(
        log,
        (
            Signature(r"no kernel image is available for execution on the device"),
            Signature(
                r"with CUDA capability sm_\d+ is not compatible with the current PyTorch installation", bare=True
            ),
            Signature(r"CUDA error: invalid device function", confidence=LIKELY),
            Signature(r"cudaErrorNoKernelImageForDevice|hipErrorNoBinaryForGpu|CUDA_ERROR_NO_BINARY_FOR_GPU"),
            Signature(
                r"GPU\d? [^\n]*which is of cuda capability \d\.\d|no longer supports this GPU because it is too old"
            ),
        ),
    )
    if not match:
        return None
    arch = log.search(r"CUDA capability sm_(\d+)")
    return match._replace(values={"arch": arch.group(1)} if arch else None)


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    lines = []
    for gpu in facts["gpu"]["nvidia"]:
        supported = facts["torch"].get("archs") or ()
        number = gpu["capability"].replace(".", "")
        if (
            number
            and supported
            and not any(
                arch.lstrip("sm_") == number or arch[3:-1] == number[:-1] and int(arch[3:]) <= int(number)
                for arch in supported
            )
        ):
            lines.append("{} sm_{}; torch: {}".format(gpu["name"], number, " ".join(supported)))
    errors = [error for error in facts["packages"]["errors"].values() if "no kernel image" in error]
    return Match((), CERTAIN, None, tuple(lines + errors)) if lines or errors else None


RULE = Rule(
    code="AM058",
    cause="gpu-arch-not-compiled",
    order=600,
    title=Text(
        "the installed binaries contain no code for this GPU's architecture", "已安装的二进制文件不含该显卡架构的代码"
    ),
    why=Text(
        "The official packages hold code for listed GPU generations only, and none that newer GPUs could translate."
        " Pascal (GTX 10xx, P100) never; V100 not since mamba-ssm 2.3.2; RTX 50 (sm_120) since mamba-ssm"
        " 2.2.6 and causal-conv1d 1.5.3, built with nvcc 12.8 or newer. If torch itself warns about sm_XX, torch"
        " comes first.",
        "官方包只含列出的几代显卡的代码，且新显卡无法转译。Pascal（GTX 10xx、P100）从未支持；V100 自 mamba-ssm"
        " 2.3.2 起不再支持；RTX 50（sm_120）需要用 nvcc 12.8 以上构建的"
        " mamba-ssm 2.2.6、causal-conv1d 1.5.3 或更新版本。若 torch 自己就警告 sm_XX，须先解决 torch。",
    ),
    needed=Text(
        "If torch itself names the GPU as unsupported, yes. Otherwise no: anymamba's Triton kernels are compiled"
        " for whatever GPU is there.",
        "若 torch 自身提示不支持该显卡，需要；否则不需要：anymamba 的 Triton 内核会针对现有显卡即时编译。",
    ),
    log=_log,
    machine=_machine,
    remedies=(
        Remedy(
            Text(
                "RTX 50 and newer: a torch for CUDA 12.8 or newer.{only_blackwell}",
                "RTX 50 及更新：使用 CUDA 12.8 以上的 torch。{only_blackwell}",
            ),
            (
                "pip install --force-reinstall torch=={torch2} --index-url https://download.pytorch.org/whl/{cuda2}",
                'python -c "import torch; print(torch.cuda.get_device_capability(), torch.cuda.get_arch_list())"',
            ),
        ),
        Remedy(
            Text(
                "Build both packages on this machine (RTX 50 and newer: with nvcc 12.8 or newer).{from_volta_on}",
                "在本机编译这两个包（RTX 50 及更新需要 nvcc 12.8 以上）。{from_volta_on}",
            ),
            (
                "MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE pip install --no-build-isolation"
                " --no-cache-dir causal-conv1d=={conv_new} mamba-ssm=={mamba_new}",
            ),
        ),
        Remedy(
            Text(
                'Pascal: add "-gencode", "arch=compute_61,code=sm_61" to cc_flag in setup.py of a checkout, then'
                " build it.{only_pascal}",
                'Pascal：在源码目录 setup.py 的 cc_flag 中加入 "-gencode", "arch=compute_61,code=sm_61"，然后构建。{only_pascal}',
            )
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/state-spaces/mamba/issues/745", "https://github.com/state-spaces/mamba/issues/710"),
)

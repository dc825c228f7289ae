"""No driver or no GPU for torch."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
    match_signatures,
)


def _log(log: Log) -> Optional[Match]:
    if log.facts.get("system") == "wsl":
        return None
    return match_signatures(
        log,
        (
            Signature(r"Found no NVIDIA driver on your system"),
            Signature(r"RuntimeError: No CUDA GPUs are available"),
            Signature(r"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver"),
            Signature(r"could not select device driver \"\"? ?with capabilities: \[\[gpu\]\]"),
            Signature(r"libcuda\.so\.1: cannot open shared object file"),
            Signature(r"RuntimeError: 0 active drivers"),
        ),
    )


RULE = Rule(
    code="AM072",
    cause="no-gpu-visible",
    order=122,
    title=Text(
        "torch sees no GPU here: no driver, no GPU in the container, or none at all",
        "torch 在此看不到显卡：没有驱动、容器未分配显卡，或根本没有显卡",
    ),
    why=Text(
        "The official kernels run on a GPU only. In a container the GPU must be passed in; on a cluster the login"
        " node has none.",
        "官方内核只能在显卡上运行。容器需要显式分配显卡；集群的登录节点没有显卡。",
    ),
    needed=Text(
        "Only to use a GPU. Without one, anymamba's CPU kernels run the same model.",
        "只有要使用显卡时才需要。没有显卡时，anymamba 的 CPU 内核可运行同样的模型。",
    ),
    log=_log,
    remedies=(
        Remedy(
            Text("Check the driver; start containers with the GPU.", "检查驱动；带 GPU 启动容器。"),
            ("nvidia-smi", "docker run --rm --gpus all nvidia/cuda:12.4.1-base-ubuntu22.04 nvidia-smi"),
            powershell=("nvidia-smi",),
        ),
        advice.USE_ANYMAMBA,
    ),
)

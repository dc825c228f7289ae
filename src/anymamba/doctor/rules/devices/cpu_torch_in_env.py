"""The user's own torch has no CUDA."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor import advice, situation
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
    plain = match_signatures(log, (Signature(r"Torch not compiled with CUDA enabled"),))
    if plain:
        return plain
    match = situation.no_cuda(log)
    if match is None or log.facts["rocm"]:
        return None
    version, kind = situation.build_torch(log)
    isolated = situation.overlay_torch(log) is not None or log.facts["isolated"]
    none_version = match_signatures(log, (situation.NONE_VERSION,))
    if isolated and (version or none_version) and situation.torch_kind(log.facts.get("torch_installed"), None) != "cpu":
        return None
    if kind != "cpu" and none_version is None:
        return None
    if kind == "cuda":
        return None
    offsets = situation.first(log, r"torch\.__version__\s*= ") + list((none_version or match).offsets[:1])
    return Match(tuple(offsets), CERTAIN if kind == "cpu" or none_version else LIKELY)


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    if facts["gpu"]["nvidia"] and facts["torch"].get("kind") == "cpu":
        return Match(
            (), CERTAIN, None, ("torch {}".format(facts["torch"]["version"]), facts["gpu"]["nvidia"][0]["name"])
        )
    return None


RULE = Rule(
    code="AM004",
    cause="cpu-torch-in-env",
    order=75,
    title=Text("the installed torch is a CPU-only build", "已安装的 torch 是不带 CUDA 的 CPU 版"),
    why=Text(
        "A CPU build of torch reports no CUDA toolkit even when nvcc is installed, so installing nvcc does not"
        " help. PyPI's torch"
        " for Windows and macOS is always a CPU build. The official packages compile only against a CUDA (or ROCm)"
        " torch.",
        "CPU 版 torch 即使在装有 nvcc 的机器上也会报告没有 CUDA 工具包，因此再装 nvcc 也没有用。PyPI 上 Windows 与"
        " macOS 的 torch 都是 CPU 版。"
        "官方包只能针对 CUDA（或 ROCm）版的 torch 编译。",
    ),
    needed=Text(
        "If this computer has an NVIDIA GPU, yes: nothing in torch uses the GPU now. Without one the official"
        " packages cannot run; use anymamba.",
        "如果本机有 NVIDIA 显卡，需要：现在的 torch 完全不会使用显卡。没有显卡则官方包无法运行，请使用 anymamba。",
    ),
    log=_log,
    machine=_machine,
    remedies=(
        advice.CUDA_TORCH,
        Remedy(
            Text("Then build without isolation.", "然后关闭隔离进行构建。"),
            ("pip install -U setuptools wheel packaging ninja", "pip install --no-build-isolation {package}"),
        ),
        advice.USE_ANYMAMBA,
    ),
    explains=("nvcc-missing",),
    links=("https://github.com/state-spaces/mamba/issues/665",),
)

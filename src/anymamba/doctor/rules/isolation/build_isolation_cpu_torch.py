"""The isolated build fetched a CPU torch; the user's CUDA torch was not seen."""

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
    match_signatures,
)


def _log(log: Log) -> Optional[Match]:
    match = situation.no_cuda(log)
    if match is None or log.facts["rocm"]:
        return None
    overlay = situation.overlay_torch(log)
    if overlay is None and not log.facts["isolated"]:
        return None
    version, kind = situation.build_torch(log)
    none_version = match_signatures(log, (situation.NONE_VERSION,))
    if kind is None and none_version:
        kind = "cpu"
    if kind is None and overlay is not None and log.facts.get("system") in ("windows", "macos"):
        kind = "cpu"
    if kind != "cpu":
        return None
    if situation.torch_kind(log.facts.get("torch_installed"), None) == "cpu":
        return None
    offsets = (
        ([overlay] if overlay is not None else [])
        + situation.first(log, r"torch\.__version__\s*= ")
        + list(match.offsets[:1])
    )
    return Match(tuple(offsets), CERTAIN if overlay is not None or version else LIKELY)


RULE = Rule(
    code="AM005",
    cause="build-isolation-cpu-torch",
    order=70,
    title=Text(
        "pip built in an isolated environment with a CPU-only torch of its own; your CUDA torch was never seen",
        "pip 在隔离环境中使用了它自行下载的 CPU 版 torch，根本没有用到你的 CUDA 版 torch",
    ),
    why=Text(
        "mamba-ssm from 2.2.3 and causal-conv1d from 1.5.1 list torch as a build requirement, so pip downloads the"
        " newest torch from"
        " PyPI into a temporary folder (pip-build-env-…). On Windows, macOS and ARM that is a CPU build, which says"
        " that there is no CUDA, and"
        ' the build stops with "nvcc was not found" although nvcc may well be installed.',
        "mamba-ssm 2.2.3 起、causal-conv1d 1.5.1 起把 torch 列为构建依赖，于是 pip 会把 PyPI 上最新的 torch 下载到"
        "临时目录（pip-build-env-…）。"
        '在 Windows、macOS 和 ARM 上那是 CPU 版，它报告没有 CUDA，构建便以 "nvcc was not found" 失败，尽管 nvcc 可'
        "能装得好好的。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        Remedy(
            Text(
                "Make sure that your own torch has CUDA (this must not print None).",
                "确认你自己的 torch 带有 CUDA（输出不应为 None）。",
            ),
            ('python -c "import torch; print(torch.__version__, torch.version.cuda)"',),
        ),
        advice.NO_ISOLATION,
        advice.WSL,
    ),
    explains=("nvcc-missing", "cpu-torch-in-env"),
    links=("https://github.com/state-spaces/mamba/issues/665",),
)

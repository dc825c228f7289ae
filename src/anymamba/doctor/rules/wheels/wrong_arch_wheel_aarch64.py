"""An x86 wheel on ARM."""

from __future__ import annotations

from typing import Any, Dict, Optional

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

_ARM = r"aarch64|arm64|Jetson|\bGH200\b|Grace|DGX Spark|\bGB10\b|Orin|tegra"


def _log(log: Log) -> Optional[Match]:
    arm = log.search(_ARM)
    if not arm or log.facts.get("system") == "macos":
        return None
    guess = log.search(r"Guessing wheel URL: \S+linux_x86_64\.whl")
    missing = log.search(r"No module named '?(?:selective_scan_cuda|causal_conv1d_cuda)")
    format_error = log.search(
        r"(?:selective_scan_cuda|causal_conv1d_cuda)[^\n]*(?:x86_64[^\n]*\.so[^\n]*|: )(?:cannot open shared object"
        r" file|wrong ELF class|invalid ELF header)"
    )
    if guess:
        return Match((guess.start(), arm.start()), CERTAIN)
    if format_error:
        return Match((format_error.start(),), CERTAIN)
    if missing:
        return Match((missing.start(), arm.start()), LIKELY)
    return None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    if facts["system"]["machine"] not in ("aarch64", "arm64"):
        return None
    wrong = tuple(path for path in facts["packages"]["libraries"] if "x86_64" in path)
    return Match((), CERTAIN, None, wrong) if wrong else None


RULE = Rule(
    code="AM020",
    cause="wrong-arch-wheel-aarch64",
    order=400,
    title=Text("a wheel for x86 processors was installed on an ARM machine", "在 ARM 机器上安装了 x86 处理器的 wheel"),
    why=Text(
        "mamba-ssm up to 2.3.1 and causal-conv1d up to 1.6.1 call every Linux linux_x86_64, so the x86 file is"
        " downloaded on ARM as well. pip shows the package as"
        " installed, but Python cannot load the compiled part.",
        "mamba-ssm 2.3.1 及以前、causal-conv1d 1.6.1 及以前把所有 Linux 都当作 linux_x86_64，因此在 ARM 上也会下载"
        " x86 文件。pip 显示已安装，但 Python 无法加载其中的编译部分。",
    ),
    needed=OPTIONAL,
    log=_log,
    machine=_machine,
    remedies=(
        Remedy(
            Text(
                "Compile on this machine; needs nvcc. MAMBA_KEEP_CUDA_BUILD is for git main.",
                "在本机编译；需要 nvcc。MAMBA_KEEP_CUDA_BUILD 用于 git 主线。",
            ),
            (
                "pip uninstall -y mamba-ssm causal-conv1d",
                "MAMBA_KEEP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE pip install"
                " --no-build-isolation --no-cache-dir"
                " git+https://github.com/Dao-AILab/causal-conv1d git+https://github.com/state-spaces/mamba",
            ),
            systems=("linux", "wsl"),
        ),
    ),
    explains=("selective-scan-cuda-missing", "no-prebuilt-wheel"),
    links=("https://github.com/state-spaces/mamba/issues/891", "https://github.com/Dao-AILab/causal-conv1d/issues/28"),
)

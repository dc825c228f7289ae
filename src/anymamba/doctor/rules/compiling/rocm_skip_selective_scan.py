"""On ROCm no wheel exists, so the Mamba-1 kernels must be compiled."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    LIKELY,
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
    match_signatures,
)


def _log(log: Log) -> Optional[Match]:
    if not log.facts["rocm"]:
        return None
    missing = log.search(r"No module named '?selective_scan_cuda")
    if missing:
        return Match((missing.start(),), LIKELY)
    source = match_signatures(
        log,
        (
            Signature(
                r"(?:No such file or directory|missing and no known rule|no such file)[^\n]*csrc|csrc[^\n]*(?:No"
                r" such file or directory|no such file|missing and no known rule)"
            ),
        ),
    )
    if source:
        return source._replace(confidence=LIKELY)
    guess = log.search(r"Guessing wheel URL: \S+\+hip\S+\.whl")
    if guess and log.has(r"Precompiled wheel not found|404"):
        return Match((guess.start(),), LIKELY)
    return None


RULE = Rule(
    code="AM042",
    cause="rocm-skip-selective-scan",
    order=302,
    title=Text(
        "for AMD GPUs there is no wheel; the Mamba-1 kernel has to be compiled from git",
        "AMD 显卡没有预编译 wheel；Mamba-1 内核必须从 git 编译",
    ),
    why=Text(
        "Wheels with hip in their name are looked for and never published, and the older source packages lack the"
        " sources. Mamba-2 and Mamba-3 need only Triton.",
        "安装程序会寻找名称含 hip 的 wheel，但官方从未发布；较旧的源码包又缺少源文件。Mamba-2 与 Mamba-3 只需要"
        " Triton。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        Remedy(
            Text("Compile from git with the ROCm torch.", "用 ROCm 版 torch 从 git 编译。"),
            (
                "MAMBA_KEEP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE pip install --no-build-isolation --no-cache-dir"
                " git+https://github.com/state-spaces/mamba",
            ),
        ),
        advice.USE_ANYMAMBA,
    ),
    explains=("selective-scan-cuda-missing", "no-prebuilt-wheel"),
    links=("https://github.com/state-spaces/mamba/pull/915", "https://github.com/state-spaces/mamba/issues/419"),
)

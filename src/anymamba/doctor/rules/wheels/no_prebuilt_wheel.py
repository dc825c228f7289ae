"""404 for the guessed wheel: the installer goes on to compile."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    BRANCH,
    OPTIONAL,
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
            Signature(r"Precompiled wheel not found\. Building from source", bare=True),
            Signature(r"Guessing wheel URL:(?:.|\n){0,1500}?HTTP Error 40[34]"),
            Signature(
                r"(?:mamba_ssm|causal_conv1d)-[^\n]*\.whl[^\n]*(?:404 Not Found|HTTP error 404)|HTTP error 404"
                r" while getting \S*(?:mamba_ssm|causal_conv1d)\S*\.whl",
                own=True,
            ),
            Signature(r"404 Client Error: Not Found for url: \S*(?:mamba_ssm|causal_conv1d)\S*\.whl", own=True),
        ),
    )
    if match and log.facts.get("system") in ("windows", "macos") and log.has(r"win_amd64\.whl|macosx_[\w.]*\.whl"):
        return None
    return match


RULE = Rule(
    code="AM014",
    cause="no-prebuilt-wheel",
    order=800,
    role=BRANCH,
    title=Text(
        "no prebuilt wheel exists for this combination of torch, CUDA, Python and platform",
        "没有适用于这一 torch、CUDA、Python 与平台组合的预编译 wheel",
    ),
    why=Text(
        "setup.py guesses the name of one file on the release page. Each release has wheels for a few torch"
        " versions only: mamba-ssm 2.3.1 and 2.3.2.post1"
        " for torch 2.6 to 2.10, Python 3.10 to 3.13, Linux. torch 2.11 and newer, nightly builds, ROCm, Windows"
        " and macOS have none."
        " After a 404 the sources are compiled, which takes nvcc and time; it is no failure by itself.",
        "setup.py 会猜测发布页上的一个文件名。每个版本只为少数 torch 版本提供 wheel：mamba-ssm 2.3.1 与 2.3.2.post1"
        " 支持 torch 2.6 至 2.10、Python 3.10 至 3.13、Linux。"
        "torch 2.11 及以后、每日构建版、ROCm、Windows 与 macOS 都没有。遇到 404 后会改为编译源码，需要 nvcc 和时"
        "间；这本身并不是失败。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        Remedy(
            Text("Choose a torch that has a wheel, in a new environment.", "在新环境中选用有 wheel 的 torch 版本。"),
            (
                "pip install torch=={torch2} --index-url https://download.pytorch.org/whl/{cuda2}",
                "pip install --no-build-isolation causal-conv1d=={conv_new} mamba-ssm=={mamba_new}",
            ),
        ),
        Remedy(
            Text(
                "Or let it compile: nvcc of torch's CUDA version, a compiler, 4 GB of memory a job.",
                "或让它编译：需要与 torch 的 CUDA 版本一致的 nvcc、编译器，每个任务约 4 GB 内存。",
            ),
            ("MAX_JOBS=2 pip install -v --no-build-isolation {package}",),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/issues/999", "https://github.com/Dao-AILab/causal-conv1d/issues/103"),
)

"""Wrong numbers without a message."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    POSSIBLE,
    Match,
    Remedy,
    Rule,
    Text,
)


def _log(log: Log) -> Optional[Match]:
    wrong = log.search(
        r"(?:causal_conv1d|selective_scan|mamba_ssm)(?:.|\n){0,1500}?(?:AssertionError[^\n]*|max_abs_diff"
        r"|Tensor-likes are not close|mismatch(?:ed)? elements|torch\.allclose)"
    )
    machine = log.search(r"\bB300\b|\bGB300\b|sm_103|Blackwell|\bGB10\b|RTX ?50[5-9]0|sm_12[01]|sm_100|\bB200\b")
    return Match((wrong.start(), machine.start()), POSSIBLE) if wrong and machine and log.names_ours else None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    nvcc = facts["cuda"]["used"]
    if not facts["packages"]["working"] or not nvcc or int(nvcc["version"].split(".")[0]) < 13:
        return None
    blackwell = [gpu for gpu in facts["gpu"]["nvidia"] if gpu["capability"] in ("10.3",)]
    return (
        Match(
            (),
            POSSIBLE,
            None,
            ("{} ({}), nvcc {}".format(blackwell[0]["name"], blackwell[0]["capability"], nvcc["version"]),),
        )
        if blackwell
        else None
    )


RULE = Rule(
    code="AM069",
    cause="silent-numerics",
    order=640,
    title=Text(
        "the official kernels may compute wrong numbers on this GPU without any message",
        "官方内核在该显卡上可能会悄无声息地算出错误结果",
    ),
    why=Text(
        "causal-conv1d compiled with nvcc 13 gives wrong results on a B300 (sm_103), and a Blackwell corruption in"
        " mamba-ssm is repaired on git main only.",
        "用 nvcc 13 编译的 causal-conv1d 在 B300（sm_103）上结果错误；mamba-ssm 在 Blackwell 上的数据损坏只在 git"
        " 主线中修复。",
    ),
    needed=Text(
        "Yes, if you train or measure with the official kernels on such a GPU.",
        "如果在这类显卡上用官方内核训练或测量，需要。",
    ),
    log=_log,
    machine=_machine,
    remedies=(
        Remedy(Text("Measure it against the exact result.", "与精确结果对比。"), ("anymamba verify",)),
        Remedy(
            Text(
                "B300: the CUDA 12 wheel of causal-conv1d has code that is right there; Blackwell: mamba-ssm from"
                " git main.",
                "B300：使用 causal-conv1d 的 CUDA 12 wheel；Blackwell：使用 git 主线的 mamba-ssm。",
            ),
            (
                "MAMBA_KEEP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE pip install --no-build-isolation --no-cache-dir"
                " git+https://github.com/state-spaces/mamba",
            ),
        ),
    ),
    links=("https://github.com/Dao-AILab/causal-conv1d/issues/105", "https://github.com/state-spaces/mamba/pull/997"),
)

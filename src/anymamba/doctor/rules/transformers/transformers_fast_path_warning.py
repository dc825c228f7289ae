"""transformers says that it takes the slow path."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    HARMLESS,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
    match_signatures,
)

_OLD = Signature(r"[Ff]ast path is not available because (?:on )?one of [^\n]* is None", own=True)
_NEW = Signature(
    r"is falling back to its reference PyTorch implementation because `?(?:mamba_ssm|mamba-ssm|causal_conv1d"
    r"|causal-conv1d)`?",
    own=True,
)
_OTHER = Signature(
    r"Fast Mamba kernels are not available|[Mm]amba[^\n]*(?:naive|sequential|slow) (?:implementation|path)|(?:naive"
    r"|sequential) implementation of [Mm]amba",
    own=True,
)
_RAISES = Signature(r"Fast Mamba kernels are not available\. Make sure to they are installed", own=True)


def _log(log: Log) -> Optional[Match]:
    return match_signatures(log, (_OLD, _NEW, _RAISES, _OTHER))


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    return None


RULE = Rule(
    code="AM067",
    cause="transformers-fast-path-warning",
    order=700,
    title=Text(
        "transformers runs Mamba without fast kernels: it works, slowly",
        "transformers 未使用快速内核运行 Mamba：可以工作，但较慢",
    ),
    why=Text(
        "It is a warning, not an error. transformers 4.x and 5.0 to 5.14 look for both packages and a CUDA GPU"
        ' ("The fast path is not available because one of ... is None"); from 5.15 on each function that'
        ' cannot be imported falls back by itself ("falling back to its reference PyTorch implementation"), and'
        ' says "not installed" also when the package is there but broken.',
        '这是警告，不是错误。transformers 4.x 与 5.0 至 5.14 会检查两个包和 CUDA 显卡（"The fast path is not'
        ' available because one of ... is None"）；自 5.15 起，每个无法导入的函数会各自回退'
        '（"falling back to its reference PyTorch implementation"），即使包已安装但损坏，也会显示 "not installed"。',
    ),
    needed=HARMLESS,
    log=_log,
    machine=_machine,
    remedies=(
        Remedy(
            Text(
                "transformers 5.15 and newer: anymamba's drop-in makes it fast on CPU and GPU, without a compiler.",
                "transformers 5.15 及以后：anymamba 的替身模块让它在 CPU 与 GPU 上都快，无需编译器。",
            ),
            ("anymamba dropin enable",),
        ),
        Remedy(
            Text(
                "An NVIDIA GPU, torch 2.5 or newer and internet at run time: Hugging Face's prebuilt kernels.",
                "有 NVIDIA 显卡、torch 2.5 以上且运行时可联网：使用 Hugging Face 的预编译内核。",
            ),
            ("pip install kernels",),
        ),
        Remedy(
            Text("Or the official packages.", "或安装官方包。"),
            ("pip install --no-build-isolation {packages}",),
            systems=("linux", "wsl"),
        ),
    ),
    links=("https://github.com/huggingface/transformers/pull/41540",),
)

"""pip reused a wheel that was made for another torch."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    LIKELY,
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Text,
)


def _log(log: Log) -> Optional[Match]:
    cached = log.search(
        r"Using cached (?:\S*/)?(?:mamba_ssm|causal_conv1d)-[\w.+]+-cp3\d+-cp3\d+-\w+\.whl|(?:mamba[-_]ssm"
        r"|causal[-_]conv1d)[^\n]*(?:\.cache/pip/wheels|Stored in directory: [^\n]*pip[\\/]wheels)"
    )
    damage = log.search(
        r"undefined symbol|libcudart\.so\.\d+[^\n]*cannot open|DLL load failed|no kernel image is available"
        r"|GLIBC_2\.\d+. not found"
    )
    if cached and damage and damage.start() > cached.start():
        return Match((cached.start(), damage.start()), LIKELY)
    return None


RULE = Rule(
    code="AM021",
    cause="stale-pip-cache-wheel",
    order=402,
    title=Text(
        "pip reused a cached wheel that was built for another torch", "pip 复用了缓存中针对另一个 torch 构建的 wheel"
    ),
    why=Text(
        "pip keeps the wheel under a name without torch and CUDA in it, and takes it again after you changed torch.",
        "pip 缓存 wheel 时文件名里不含 torch 与 CUDA 版本，更换 torch 之后仍会取用旧文件。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        Remedy(
            Text("Drop it from the cache and install again.", "从缓存中删除并重新安装。"),
            (
                "pip cache remove mamba_ssm",
                "pip cache remove causal_conv1d",
                "pip install --no-cache-dir --force-reinstall --no-deps --no-build-isolation {packages}",
            ),
        ),
    ),
    explains=("abi-undefined-symbol", "libcudart-not-found"),
)

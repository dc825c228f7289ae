"""setup.py imports torch, and the environment it runs in has none."""

from __future__ import annotations

import re
from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
    match_signatures,
)

_MISSING = r"(?:ModuleNotFoundError|ImportError): No module named '?torch'?(?!\.)"
_BUILDING = (
    r"Getting requirements to build|egg_info|build_wheel|prepare_metadata|setup\.py|bdist_wheel|get_requires_for_build"
    r"|build backend|Failed to build|Preparing metadata|build dependenc"
)


def _log(log: Log) -> Optional[Match]:
    match = match_signatures(log, (Signature(_MISSING),))
    if not match or not re.search(_BUILDING, log.around(match.offsets[0], match.offsets[0], before=50, after=25)):
        return None
    return match


RULE = Rule(
    code="AM001",
    cause="torch-not-in-build-env",
    order=60,
    title=Text(
        "the environment in which {package} is built has no torch, and its setup.py imports torch",
        "构建 {package} 所用的环境里没有 torch，而它的 setup.py 需要导入 torch",
    ),
    why=Text(
        "pip and uv build a source package in a temporary environment that holds only what the package declares."
        " mamba-ssm up to"
        " 2.2.2 and 2.3.2.post1, and causal-conv1d up to 1.5.0.post8 declare nothing, so torch is missing there"
        " even when you have it installed."
        " With --no-build-isolation the same error means that your own environment has no torch.",
        "pip 和 uv 会在临时环境中构建源码包，其中只有该包声明过的依赖。mamba-ssm 2.2.2 及以前与 2.3.2.post1、"
        "causal-conv1d 1.5.0.post8 及以前"
        "没有声明任何构建依赖，因此即使你装了 torch，那里也没有。若已使用 --no-build-isolation 仍报此错，则说明当前"
        "环境本身没有 torch。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        Remedy(
            Text("First torch, then the packages without isolation.", "先装 torch，再关闭隔离安装这两个包。"),
            (
                "pip install torch=={torch} --index-url https://download.pytorch.org/whl/{cuda}",
                "pip install -U setuptools wheel packaging ninja",
                "pip install --no-build-isolation {package}",
            ),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/issues/742", "https://github.com/astral-sh/uv/issues/14671"),
)

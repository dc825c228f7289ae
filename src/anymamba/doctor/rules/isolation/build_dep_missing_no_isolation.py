"""--no-build-isolation in an environment without setuptools, wheel or packaging."""

from __future__ import annotations

import re
from typing import Optional

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

_BUILDING = (
    r"setup\.py|build_wheel|prepare_metadata|egg_info|bdist_wheel|build_meta|Getting requirements|<string>"
    r"|Preparing metadata|build backend"
)


def _log(log: Log) -> Optional[Match]:
    plain = match_signatures(
        log,
        (
            Signature(
                r"ModuleNotFoundError: No module named '(?:wheel(?:\.\w+)?|packaging(?:\.\w+)?|setuptools(?:\.\w+)?"
                r"|pkg_resources|distutils(?:\.\w+)*)'"
            ),
        ),
    )
    if plain and re.search(_BUILDING, log.around(plain.offsets[0], plain.offsets[0], before=40, after=15)):
        return plain
    return match_signatures(
        log,
        (
            Signature(r"BackendUnavailable: Cannot import 'setuptools\.build_meta(?::__legacy__)?'"),
            Signature(r"error: invalid command 'bdist_wheel'"),
            Signature(r"module 'pkgutil' has no attribute 'ImpImporter'", confidence=LIKELY),
            Signature(r"ImportError: cannot import name 'packaging' from 'pkg_resources'"),
        ),
    )


RULE = Rule(
    code="AM002",
    cause="build-dep-missing-no-isolation",
    order=80,
    title=Text(
        "build isolation is off and this environment lacks a build tool (setuptools, wheel or packaging)",
        "构建隔离已关闭，而当前环境缺少构建工具（setuptools、wheel 或 packaging）",
    ),
    why=Text(
        "Without isolation the build uses the tools of your own environment. Since Python 3.12 a new virtual"
        " environment has"
        " neither setuptools nor wheel, and setup.py also imports packaging.",
        "关闭隔离后，构建使用当前环境中的工具。自 Python 3.12 起，新建的虚拟环境不再自带 setuptools 与 wheel，而"
        " setup.py 还要导入 packaging。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        Remedy(
            Text("Install the build tools and try again.", "安装构建工具后重试。"),
            ("pip install -U setuptools wheel packaging ninja", "pip install --no-build-isolation {package}"),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/issues/30",),
)

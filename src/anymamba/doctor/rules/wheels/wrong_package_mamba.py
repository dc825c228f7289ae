"""The test tool called mamba was installed in place of mamba-ssm."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    CERTAIN,
    LIKELY,
    ONLY_OFFICIAL,
    Match,
    Remedy,
    Rule,
    Text,
)


def _log(log: Log) -> Optional[Match]:
    asked = log.search(
        r"pip3? install (?:-\S+ )*mamba(?:==[\d.]+)?(?=\s|$)|Successfully installed (?:[^\n]* )?mamba-0\.\d+"
        r"|Collecting mamba(?:==[\d.]+)?$"
    )
    if not asked:
        return None
    missing = log.search(
        r"No module named '?mamba_ssm|cannot import name '\w+' from 'mamba'|No module named '?mamba\.\w+|module"
        r" 'mamba' has no attribute"
    )
    if missing:
        return Match((asked.start(), missing.start()), CERTAIN)
    return Match((asked.start(),), LIKELY) if log.names_ours else None


RULE = Rule(
    code="AM013",
    cause="wrong-package-mamba",
    order=10,
    title=Text(
        "the package called mamba was installed; the model code is in mamba-ssm",
        "安装的是名为 mamba 的包，而模型代码在 mamba-ssm 中",
    ),
    why=Text(
        "On PyPI, mamba is an old test tool. conda's mamba (libmamba, micromamba) is a package installer. Neither"
        " has anything to do with the model.",
        "PyPI 上的 mamba 是一个旧的测试工具；conda 的 mamba（libmamba、micromamba）是包安装器。二者都与该模型无关。",
    ),
    needed=ONLY_OFFICIAL,
    log=_log,
    remedies=(
        Remedy(
            Text("Install the right one, or do without it.", "安装正确的包，或干脆不用它。"),
            ("pip uninstall -y mamba", "pip install --no-build-isolation {packages}"),
        ),
        advice.USE_ANYMAMBA,
    ),
    explains=("selective-scan-cuda-missing",),
    links=("https://github.com/mamba-org/mamba/issues/2418",),
)

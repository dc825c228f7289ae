"""conda's default channels have no mamba-ssm."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, OPTIONAL, Match, Remedy, Rule, Text


def _log(log: Log) -> Optional[Match]:
    found = log.search(
        r"(?:PackagesNotFoundError|ResolvePackageNotFound|PackageNotFoundError|nothing provides"
        r"|package not found|not available from current channels)"
        r"(?:[^\n]*\n){0,6}?[^\n]*(?:mamba[-_]ssm|causal[-_]conv1d)"
    )
    found = found or log.search(r"(?:mamba[-_]ssm|causal[-_]conv1d)[^\n]{0,20} does not exist \(perhaps a (?:typo|missing channel)[^\n]*")
    return Match((found.start(),), CERTAIN) if found else None


RULE = Rule(
    code="AM112",
    cause="conda-package-missing",
    order=43,
    title=Text(
        "conda does not find the package in its channels",
        "conda 在其频道中找不到该包",
    ),
    why=Text(
        "The official packages are on PyPI only; conda's default channels have neither mamba-ssm nor "
        "causal-conv1d. In a conda environment pip installs them.",
        "官方包只在 PyPI 上；conda 默认频道中没有 mamba-ssm 与 causal-conv1d。在 conda 环境中用 pip 安装即可。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        Remedy(
            Text(
                "With pip, inside the conda environment.",
                "在 conda 环境中使用 pip。",
            ),
            (
                "conda install -y pip",
                "python -m pip install -U setuptools wheel packaging ninja",
                "python -m pip install --no-build-isolation causal-conv1d=={conv2} mamba-ssm=={mamba2}",
            ),
        ),
        advice.USE_ANYMAMBA,
    ),
)

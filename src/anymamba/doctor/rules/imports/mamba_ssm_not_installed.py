"""The program needs mamba-ssm, and it is not there."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, ONLY_OFFICIAL, Match, Remedy, Rule, Text

_MISSING = (
    r"(?:ModuleNotFoundError|ImportError): No module named '?mamba[-_]ssm'?(?![\w.])"
    r"|[Mm]amba(?:[-_]ssm)? is not installed\. Please install"
    r"|(?:requires?|need) (?:the )?[`']?mamba[-_]ssm[`']?[^\n]{0,40}(?:to be installed|not (?:installed|found))|Please install mamba[-_]ssm"
    r"|packages that were not found in your environment: [^\n]*mamba[-_]ssm|mamba[-_]ssm is required by [^\n]* but cannot be imported"
)


def _log(log: Log) -> Optional[Match]:
    missing = log.search(_MISSING)
    # installed all the same: installed-for-another-python or broken-package-reported-missing
    if not missing or "mamba-ssm" in log.installations or log.has(r"pip3? install (?:-\S+ )*mamba(?:\s|$)"):
        return None
    # a failed installation in the same log is the cause, and this its consequence
    return Match((missing.start(),), LIKELY if any("mamba" in name for name in log.failed) else CERTAIN)


RULE = Rule(
    code="AM093",
    cause="mamba-ssm-not-installed",
    order=440,
    title=Text(
        "mamba-ssm is not installed in the Python that runs this program",
        "运行该程序的 Python 中没有安装 mamba-ssm",
    ),
    why=Text(
        "The program imports mamba_ssm, and this Python has no such package: it was never installed, its "
        "installation failed, or it went into another environment.",
        "程序导入 mamba_ssm，而当前 Python 没有这个包：从未安装、安装失败，或装进了另一个环境。",
    ),
    needed=ONLY_OFFICIAL,
    log=_log,
    remedies=(
        advice.USE_ANYMAMBA,
        Remedy(
            Text(
                "Or install the official packages into this very Python.",
                "或把官方包安装到这个 Python 中。",
            ),
            (
                "python -m pip install -U setuptools wheel packaging ninja",
                "python -m pip install --no-build-isolation causal-conv1d{conv_pin} mamba-ssm{mamba_pin}",
            ),
            systems=("linux", "wsl"),
        ),
        advice.WSL,
    ),
    links=("https://github.com/thuml/Time-Series-Library/issues/669",),
)

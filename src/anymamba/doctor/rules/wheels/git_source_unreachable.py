"""git+https://github.com cannot be cloned."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    CERTAIN,
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Text,
)


def _log(log: Log) -> Optional[Match]:
    ours = r"(?:state-spaces/mamba|Dao-AILab/causal-conv1d|mamba|causal-conv1d)"
    failed = log.search(
        r"(?:fatal: unable to access '?https://github\.com/\S*"
        + ours
        + r"|git clone [^\n]*"
        + ours
        + r"[^\n]* did not run successfully|Command '?\[?'?git[^\n]*clone[^\n]*"
        + ours
        + r"[^\n]*(?:non-zero|failed)"
        r"|failed to (?:clone|fetch)[^\n]*" + ours + r"|Git operation failed)"
    )
    if failed and log.names_mamba:
        return Match((failed.start(),), CERTAIN)
    no_git = log.search(r"ERROR: Cannot find command 'git'|Git executable not found")
    return Match((no_git.start(),), CERTAIN) if no_git and log.names_mamba else None


RULE = Rule(
    code="AM083",
    cause="git-source-unreachable",
    order=42,
    title=Text("the source could not be cloned from GitHub", "无法从 GitHub 克隆源码"),
    why=Text("git is missing, or github.com cannot be reached from here.", "没有安装 git，或此处无法访问 github.com。"),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        Remedy(
            Text("The packages on PyPI need no git.", "PyPI 上的包不需要 git。"),
            ("pip install --no-build-isolation {packages}",),
        ),
        Remedy(
            Text(
                "Or install git; behind a proxy, set https_proxy to its address.",
                "或安装 git；若使用代理，把 https_proxy 设为其地址。",
            ),
            ("sudo apt-get install -y git",),
            powershell=("winget install Git.Git",),
        ),
    ),
)

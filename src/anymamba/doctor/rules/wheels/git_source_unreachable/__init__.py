"""git+https://github.com cannot be cloned."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, Match, Rule


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


RULE = Rule(code="AM083", cause="git-source-unreachable", order=42, log=_log)

"""404 for the guessed wheel: the installer goes on to compile."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import BRANCH, Match, Rule, Signature, match_signatures


def _log(log: Log) -> Optional[Match]:
    match = match_signatures(
        log,
        (
            Signature(r"Precompiled wheel not found\. Building from source", bare=True),
            Signature(r"Guessing wheel URL:(?:.|\n){0,1500}?HTTP Error 40[34]"),
            Signature(
                r"(?:mamba_ssm|causal_conv1d)-[^\n]*\.whl[^\n]*(?:404 Not Found|HTTP error 404)|HTTP error 404"
                r" while getting \S*(?:mamba_ssm|causal_conv1d)\S*\.whl",
                own=True,
            ),
            Signature(r"404 Client Error: Not Found for url: \S*(?:mamba_ssm|causal_conv1d)\S*\.whl", own=True),
        ),
    )
    if match and log.facts.get("system") in ("windows", "macos") and log.has(r"win_amd64\.whl|macosx_[\w.]*\.whl"):
        return None
    return match


RULE = Rule(code="AM014", cause="no-prebuilt-wheel", order=800, role=BRANCH, log=_log)

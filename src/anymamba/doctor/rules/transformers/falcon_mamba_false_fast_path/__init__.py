"""FalconMamba falls back although both packages work."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Rule


def _log(log: Log) -> Optional[Match]:
    warning = log.search(
        r"[Ff]ast path is not available because (?:on )?one of|is falling back to its reference PyTorch implementation"
    )
    falcon = log.search(r"[Ff]alcon[-_ ]?[Mm]amba")
    if not warning or not falcon:
        return None
    works = log.search(
        r"mamba[-_]ssm(?:==|\s+|-)2\.\d+\.\d+|causal[-_]conv1d(?:==|\s+|-)1\.\d+\.\d+|import"
        r" mamba_ssm[^\n]*(?:works|OK|ok|fine|success)|\(installed\)|is_(?:mamba_ssm"
        r"|causal_conv1d)_available\(\)\s*\n?\s*True|True"
    )
    return Match((warning.start(), works.start()), LIKELY) if works else None


RULE = Rule(
    code="AM068",
    cause="falcon-mamba-false-fast-path",
    order=690,
    log=_log,
    explains=("transformers-fast-path-warning",),
)

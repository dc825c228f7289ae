"""pip cannot fit the versions together, often because an image pins them."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule


def _log(log: Log) -> Optional[Match]:
    if log.has(r"(?:depends on|requires) triton ?>= ?3\.5|(?:depends on|requires) (?:tilelang|apache-tvm-ffi|quack-kernels)"):
        return None  # the release's own pins, which have rules of their own
    names = r"(?:mamba[-_]ssm|causal[-_]conv1d)"
    found = log.search(
        r"Cannot install " + names + r"[^\n]* because these package versions have conflicting dependencies"
        r"|Cannot install [^\n]*" + names + r"[^\n]* because these package versions have conflicting dependencies"
        r"|[Bb]ecause [^\n]*" + names + r"[^\n]*(?:depends on|requires)[^\n]*(?:\n[^\n]*){0,6}?"
        r"(?:unsatisfiable|version solving failed|cannot be used|incompatible)"
    )
    return Match((found.start(),), CERTAIN if "Cannot install" in found.group(0) else LIKELY) if found else None


RULE = Rule(code="AM109", cause="pip-version-conflict", order=56, log=_log)

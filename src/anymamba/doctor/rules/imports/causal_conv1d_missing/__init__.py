"""The optional half is not installed."""

from __future__ import annotations

import re
from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, POSSIBLE, Match, Rule, Signature, match_signatures
from anymamba.doctor.tracebacks import call_before, near

_CONV = r"(?:causal_conv1d_\w+|causal_conv1d)$"


def _log(log: Log) -> Optional[Match]:
    match = match_signatures(
        log,
        (
            Signature(r"(?:ModuleNotFoundError|ImportError): No module named '?causal_conv1d'?(?![\w.])", own=True),
            Signature(r"'NoneType' object has no attribute 'causal_conv1d_\w+'", own=True),
            Signature(
                r"(?<!because\s`)(?<!because\s)(?:causal_conv1d|causal-conv1d)`? is (?:not installed|required)"
                r"|[Pp]lease install causal[-_]conv1d",
                own=True,
                confidence=LIKELY,
            ),
            Signature(r"NotImplementedError: The fast path is not available"),
        ),
    ) or none_called(log)
    # the other rules speak of a package that is there: of another version, or one that does not import
    return None if match and "causal-conv1d" in log.installations else match


def none_called(log: Log) -> Optional[Match]:
    """``'NoneType' object is not callable`` where the traceback shows that the function is causal-conv1d's."""
    for found in log.finditer(Signature(r"'NoneType' object is not callable")):
        called = call_before(log, found.start())
        if called and re.match(_CONV, called):
            return Match((found.start(),), LIKELY)
        if called is None and near(log, found.start(), r"mamba_split_conv1d|causal_conv1d|ssd_combined|mamba2\.py"):
            return Match((found.start(),), POSSIBLE)
    return None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    packages = facts["packages"]
    if packages["mamba_ssm"].get("installed") and not packages["causal_conv1d"].get("installed"):
        return Match((), LIKELY, None, ("mamba-ssm {}; causal-conv1d: -".format(packages["mamba_ssm"]["version"]),))
    return None


RULE = Rule(code="AM049", cause="causal-conv1d-missing", order=430, log=_log, machine=_machine)

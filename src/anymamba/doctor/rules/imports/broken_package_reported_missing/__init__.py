"""transformers says "not installed" of a package that is there and cannot be imported."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule


def _log(log: Log) -> Optional[Match]:
    says = log.search(
        r"because `?(?:mamba_ssm|mamba-ssm|causal_conv1d|causal-conv1d)`? is not installed|fast path is not"
        r" available because (?:on )?one of|[Mm]amba(?:[-_]ssm)? is not installed\. Please install"
    )
    if not says:
        return None
    broken = log.search(
        r"ImportError: [^\n]*(?:selective_scan_cuda|causal_conv1d_cuda)[^\n]*|undefined symbol: _Z|ImportError:"
        r" libcudart\.so|No module named '?(?:selective_scan_cuda|causal_conv1d_cuda)|DLL load failed while"
        r" importing (?:selective|causal)"
    )
    installation = log.installations.get("mamba-ssm")
    if installation and "Please install" in says.group(0):
        return Match((says.start(), installation.offset) + ((broken.start(),) if broken else ()), CERTAIN if broken else LIKELY)
    listed = log.search(
        r"^(?:mamba[-_]ssm|causal[-_]conv1d)(?:==|\s+)\d\S*$|Requirement already satisfied: (?:mamba[-_]ssm"
        r"|causal[-_]conv1d)|Name: (?:mamba[-_]ssm|causal[-_]conv1d)"
    )
    if broken:
        return Match((says.start(), broken.start()), CERTAIN)
    if listed and "is not installed" in says.group(0):
        return Match((says.start(), listed.start()), LIKELY)
    return None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    packages = facts["packages"]
    if (
        facts["transformers"].get("installed")
        and packages["errors"]
        and (packages["mamba_ssm"].get("installed") or packages["causal_conv1d"].get("installed"))
    ):
        return Match(
            (), CERTAIN, None, tuple("{}: {}".format(name, error) for name, error in packages["errors"].items())
        )
    return None


RULE = Rule(
    code="AM070",
    cause="broken-package-reported-missing",
    order=695,
    log=_log,
    machine=_machine,
    explains=("transformers-fast-path-warning",),
)

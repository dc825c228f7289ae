"""CUDA and Triton only: nothing for macOS."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor import situation
from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule, Signature, match_signatures


def _log(log: Log) -> Optional[Match]:
    if log.facts.get("system") != "macos" or not log.names_ours:
        return None
    guess = log.search(r"Guessing wheel URL: \S+macosx\S+\.whl")
    if guess:
        return Match((guess.start(),), CERTAIN)
    failure = match_signatures(
        log,
        (
            situation.NAME_ERROR,
            situation.NVCC_WARNING,
            situation.NONE_VERSION,
            Signature(r"No matching distribution found for triton"),
            Signature(r"No module named '?(?:triton|selective_scan_cuda|causal_conv1d_cuda)"),
            Signature(r"(?:ModuleNotFoundError|ImportError): No module named '?torch'?"),
            Signature(r"clang[^\n]*: error: unsupported option '-fopenmp'|triton\S* has no wheels"),
        ),
    )
    where = log.search(r"/Users/\w+|/private/var/folders/|macosx[_-]\d+|[Dd]arwin|\bmacOS\b|/opt/homebrew")
    return Match(failure.offsets[:1] + ((where.start(),) if where else ()), LIKELY) if failure else None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    if (
        facts["system"]["kind"] == "macos"
        and facts["packages"]["mamba_ssm"].get("installed")
        and not facts["packages"]["working"]
    ):
        return Match((), CERTAIN, None, (facts["system"]["name"],))
    return None


RULE = Rule(
    code="AM038",
    cause="macos-unsupported",
    order=20,
    log=_log,
    machine=_machine,
    explains=(
        "nvcc-missing",
        "torch-not-in-build-env",
        "triton-missing-on-windows",
        "build-isolation-cpu-torch",
        "cpu-torch-in-env",
        "no-prebuilt-wheel",
        "selective-scan-cuda-missing",
    ),
)

"""The Python files are there, the compiled part is not."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule, Signature


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    errors = [
        error
        for error in facts["packages"]["errors"].values()
        if "No module named 'selective_scan_cuda'" in error or "No module named 'causal_conv1d_cuda'" in error
    ]
    return Match((), CERTAIN, None, tuple(errors)) if errors else None


RULE = Rule(
    code="AM047",
    cause="selective-scan-cuda-missing",
    order=420,
    signatures=(
        Signature(
            r"(?:ModuleNotFoundError|ImportError): No module named '?(?:selective_scan_cuda|causal_conv1d_cuda)'?(?!\w)",
            own=True,
        ),
        Signature(r"No module named '?(?:selective_scan_cuda|causal_conv1d_cuda)'?(?!\w)", own=True),
        Signature(
            r"NameError: name '(?:selective_scan_cuda|causal_conv1d_cuda)' is not defined",
            own=True,
        ),
        # a guarded import failed, and of what is not said
        Signature(
            r"NameError: name '(?:selective_scan_fn|selective_scan_ref|mamba_inner_fn|causal_conv1d_fn)' is not defined"
            r"|[Cc]an ?not import selective_scan_cuda(?!_)",
            own=True,
            confidence=LIKELY,
        ),
    ),
    machine=_machine,
    explains=("broken-package-reported-missing",),
)

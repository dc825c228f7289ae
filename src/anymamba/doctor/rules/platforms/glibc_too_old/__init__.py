"""Wheels made on Ubuntu 22.04."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.rule import CERTAIN, Match, Rule, Signature


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    errors = [error for error in facts["packages"]["errors"].values() if "GLIBC_2" in error]
    return Match((), CERTAIN, None, tuple(errors)) if errors else None


RULE = Rule(
    code="AM045",
    cause="glibc-too-old",
    order=414,
    signatures=(
        Signature(
            r"version [`'‘]GLIBC_2\.\d+['’`] not found \(required by [^\n)]*(?:selective_scan|causal_conv1d)", own=True
        ),
        Signature(r"(?:libc|libm)\.so\.6: version [`'‘]GLIBC_2\.\d+['’`] not found"),
    ),
    machine=_machine,
)

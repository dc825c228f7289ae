"""The system's Python refuses pip."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM081",
    cause="externally-managed-python",
    order=12,
    signatures=(Signature(r"error: externally-managed-environment", bare=True),),
)

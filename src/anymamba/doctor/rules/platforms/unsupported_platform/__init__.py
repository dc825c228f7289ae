"""setup.py knows Linux, macOS and Windows by name only."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM084",
    cause="unsupported-platform",
    order=25,
    signatures=(Signature(r"ValueError: Unsupported platform: \S+"),),
)

"""No rule matches. Matched by unknown.py."""

from __future__ import annotations

from anymamba.doctor.rule import Rule

RULE = Rule(code="AM099", cause="unknown", order=999, log=lambda log: None)

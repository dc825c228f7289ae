"""Only wrapper lines are left; the cause was cut off. Matched by unknown.py."""

from __future__ import annotations

from anymamba.doctor.rule import Rule

RULE = Rule(code="AM098", cause="log-truncated", order=990, log=lambda log: None)

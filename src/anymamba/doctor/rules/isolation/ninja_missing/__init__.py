"""No ninja: the build is slow, not broken."""

from __future__ import annotations

from anymamba.doctor.rule import NOTE, Rule, Signature

RULE = Rule(
    code="AM029",
    cause="ninja-missing",
    order=820,
    role=NOTE,
    signatures=(
        Signature(r"could not find ninja\.?\.? Falling back to using the slow distutils backend"),
        Signature(r"RuntimeError: Ninja is required to load C\+\+ extensions"),
    ),
)

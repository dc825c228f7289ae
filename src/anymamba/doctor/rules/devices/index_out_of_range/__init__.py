"""Token ids beyond the vocabulary."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Rule, Signature

RULE = Rule(
    code="AM118",
    cause="index-out-of-range",
    order=650,
    signatures=(
        Signature(
            r"Assertion `(?:srcIndex < srcSelectDimSize|index >= -sizes\[i\] && index < sizes\[i\]"
            r"|t >= 0 && t < n_classes)[^\n]*", confidence=LIKELY,
        ),
    ),
)

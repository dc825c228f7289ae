"""An old torch with NumPy 2."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Rule, Signature

RULE = Rule(
    code="AM053",
    cause="numpy2-incompatible",
    order=510,
    signatures=(
        Signature(r"A module that was compiled using NumPy 1\.x cannot be run in"),
        Signature(r"RuntimeError: Numpy is not available"),
        Signature(r"AttributeError: _ARRAY_API not found|_ARRAY_API not found"),
        Signature(r"numpy\.dtype size changed, may indicate binary incompatibility", confidence=LIKELY),
    ),
)

"""A wheel for another Python or system, or a renamed file."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM019",
    cause="wheel-tag-mismatch",
    order=200,
    signatures=(
        Signature(r"(?:mamba|causal)[^\n]*\.whl is not a supported wheel on this platform", own=True),
        Signature(
            r"(?:mamba|causal)[^\n]*\.whl' ?is not compatible|(?:mamba|causal)\S* can't be installed because it"
            r" doesn't have a (?:wheel|source distribution)|(?:mamba|causal)[^\n]*incompatible with the current"
            r" Python",
            own=True,
        ),
        Signature(
            r"Invalid wheel filename[^\n]*(?:mamba|causal)|(?:mamba|causal)[^\n]*\.whl is not a valid wheel filename",
            own=True,
        ),
        Signature(r"A path dependency is incompatible with the current platform: [^\n]*(?:mamba|causal)", own=True),
        Signature(r"\.whl is not a supported wheel on this platform"),
    ),
)

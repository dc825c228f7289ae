"""transformers removed a name that old releases import."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM051",
    cause="transformers5-greedysearch-import",
    order=520,
    signatures=(
        Signature(
            r"cannot import name '(?:GreedySearchDecoderOnlyOutput|SampleDecoderOnlyOutput)' from 'transformers",
            bare=True,
        ),
    ),
)

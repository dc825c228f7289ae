"""transformers' models with gated delta rules run without fast kernels."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Rule, Signature

RULE = Rule(
    code="AM095",
    cause="linear-attention-fast-path",
    order=702,
    signatures=(
        Signature(r"[Ff]ast path is not available because (?:on )?one of the required librar(?:y|ies)", own=True),
        Signature(
            r"(?:flash-linear-attention|fla)[^\n]*(?:is )?not (?:installed"
            r"|available)[^\n]*(?:torch implementation|slow)"
            r"|is_flash_linear_attention_available\(\)[^\n]*False", own=True, confidence=LIKELY,
        ),
    ),
)

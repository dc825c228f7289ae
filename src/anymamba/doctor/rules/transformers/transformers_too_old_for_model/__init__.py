"""transformers does not know the model yet."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM119",
    cause="transformers-too-old-for-model",
    order=521,
    signatures=(
        Signature(
            r"KeyError: '(?:mamba2?|falcon_mamba|falcon_h1|jamba|bamba|zamba2?|nemotron_h|granitemoehybrid"
            r"|plamo2?|qwen3_next|qwen3_5\w*|lfm2\w*)'",
            own=True,
        ),
        Signature(
            r"model type `?'?(?:mamba2?|falcon_mamba|falcon_h1|jamba|bamba|zamba2?|nemotron_h"
            r"|granitemoehybrid|plamo2?|qwen3_next|qwen3_5\w*"
            r"|lfm2\w*)'?`? but Transformers does not recognize this architecture", own=True,
        ),
        Signature(
            r"No module named 'transformers\.models\.(?:mamba2?|falcon_mamba|falcon_h1|jamba|bamba|zamba2?"
            r"|nemotron_h|granitemoehybrid|plamo2?|qwen3_next|qwen3_5\w*|lfm2\w*)(?:\.\w+)?'", own=True,
        ),
        Signature(
            r"cannot import name '(?:Mamba2?|FalconMamba|FalconH1|Jamba|Bamba|Zamba2?"
            r"|NemotronH)\w*' from 'transformers", own=True,
        ),
    ),
)

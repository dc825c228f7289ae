"""A program for mamba-ssm 2.x, and 1.x is installed."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM091",
    cause="program-for-mamba-ssm-2",
    order=531,
    signatures=(
        Signature(
            r"No module named '?mamba_ssm\.modules\.(?:block|mamba2|mamba2_simple|mamba3|mha|mlp"
            r"|ssd_minimal)\b", own=True,
        ),
        Signature(
            r"No module named '?mamba_ssm\.(?:distributed|ops\.triton\.(?:layer_norm|layernorm_gated|ssd_\w+"
            r"|softplus|angle_cumsum|mamba3\w*)|ops\.(?:cute|tilelang))\b", own=True,
        ),
        Signature(r"cannot import name '?(?:Mamba2\w*|Mamba3\w*)'? from '?mamba_ssm", own=True),
        Signature(
            r"MambaConfig\.?(?:__init__)?\(\) got an unexpected keyword argument '(?:d_intermediate"
            r"|attn_layer_idx|attn_cfg|tie_embeddings)'", own=True,
        ),
        Signature(r"module 'mamba_ssm' has no attribute '(?:Mamba2|Mamba3)'", own=True),
    ),
)

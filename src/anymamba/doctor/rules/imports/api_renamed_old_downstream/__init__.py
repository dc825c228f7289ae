"""Downstream code for mamba-ssm 1.x."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM054",
    cause="api-renamed-old-downstream",
    order=530,
    signatures=(
        Signature(r"No module named '?mamba_ssm\.ops\.triton\.layernorm'?(?!_)", own=True),
        Signature(r"cannot import name 'Block' from '?mamba_ssm\.modules\.(?:mamba_simple|mamba2)", own=True),
        Signature(
            r"(?:create_block\(\)|MixerModel\.__init__\(\)|Block\.__init__\(\)|__init__\(\)) missing 1 required positional argument:"
            r" '(?:d_intermediate|mlp_cls)'",
            own=True,
        ),
        Signature(r"cannot import name '(?:RMSNorm|layer_norm_fn|rms_norm_fn)' from 'mamba_ssm\.ops\.triton\.layernorm'", own=True),
        Signature(r"cannot import name 'create_block' from 'mamba_ssm\.modules", own=True),
        Signature(
            r"module 'mamba_ssm\.ops\.triton' has no attribute 'layernorm'|cannot import name 'layernorm' from"
            r" 'mamba_ssm",
            own=True,
        ),
    ),
)

"""A file or folder of the user stands before the package."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Against, Rule, Signature

RULE = Rule(
    code="AM108",
    cause="name-shadowed",
    order=500,
    signatures=(
        Signature(r"partially initialized module '(?:mamba_ssm|causal_conv1d)[\w.]*'", own=True),
        Signature(
            r"No module named 'mamba_ssm\.\w+'; 'mamba_ssm' is not a package|'(?:mamba_ssm"
            r"|causal_conv1d)' is not a package",
            own=True,
        ),
        Signature(
            r"cannot import name '(?:Mamba|selective_scan_fn|causal_conv1d_fn"
            r"|causal_conv1d_update)' from '(?:mamba_ssm|causal_conv1d)' \((?:unknown location"
            r"|[^)\n]*(?<!-packages[\\/]mamba_ssm[\\/]__init__\.py)(?<!-packages[\\/]causal_conv1d[\\/]__init"
            r"__\.py))\)",
            own=True,
        ),
        Signature(
            r"(?:partially initialized module '(?:triton|torch|einops)'|'(?:triton|torch"
            r"|einops)' is not a package)",
            bare=True,
        ),
        Signature(
            r"module '(?:mamba_ssm|causal_conv1d)' has no attribute '(?:Mamba|causal_conv1d_fn|__version__)'",
            own=True,
            confidence=LIKELY,
        ),
    ),
    against=(Against(r"\bfrom mamba import|No module named .mamba.\W", removes=True, near=3),),
)

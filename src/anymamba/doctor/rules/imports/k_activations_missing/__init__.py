"""A file that three releases forgot."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM055",
    cause="k-activations-missing",
    order=532,
    signatures=(Signature(r"No module named '?mamba_ssm\.ops\.triton\.k_activations'?", own=True),),
)

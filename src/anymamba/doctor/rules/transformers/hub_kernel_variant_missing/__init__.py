"""Hugging Face's kernels have no build for this machine."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM120",
    cause="hub-kernel-variant-missing",
    order=703,
    signatures=(
        Signature(r"Cannot find a build variant for this system in \S*(?:mamba|causal-conv1d)", own=True),
        Signature(
            r"(?:kernels-community/(?:mamba-ssm|causal-conv1d))[^\n]*(?:not found|does not exist|404"
            r"|No matching|Cannot)", own=True,
        ),
    ),
)

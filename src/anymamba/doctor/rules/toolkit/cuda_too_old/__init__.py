"""nvcc older than 11.6."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM007",
    cause="cuda-too-old",
    order=110,
    signatures=(
        Signature(
            r"(?:mamba_ssm|causal_conv1d|selective_scan\w*) is only supported on CUDA 11\.\d+ and above", own=True
        ),
        Signature(
            r"nvcc fatal *: (?:Unknown option '-*(?:threads|generate-dependencies-with-compile|expt-\w+)'"
            r"|Value 'c\+\+1[47]' is not defined for option 'std')"
        ),
        Signature(r"is only supported on CUDA 11\.\d+ and above"),
    ),
)

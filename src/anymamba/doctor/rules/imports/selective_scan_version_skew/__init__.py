"""Python files and compiled part of different copies of mamba-ssm."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Against, Rule, Signature

RULE = Rule(
    code="AM106",
    cause="selective-scan-version-skew",
    order=426,
    signatures=(
        Signature(r"(?:TypeError: )?(?:fwd|bwd)\(\): incompatible function arguments", own=True),
        Signature(
            r"selective_scan_(?:cuda\.)?(?:fwd|bwd|fn"
            r"|ref)?\(?\)?[^\n]{0,20}(?:incompatible function arguments|takes \d+ positional"
            r"|missing \d+ required)", own=True,
        ),
        Signature(
            r"(?:mamba_inner_fn|selective_scan_fn|MambaInnerFn\.\w+)\(\) (?:missing \d+ required"
            r"|takes (?:from )?\d+|got an unexpected keyword)", own=True, confidence=LIKELY,
        ),
        Signature(r"module 'selective_scan_cuda\w*' has no attribute '\w+'", own=True),
    ),
    explains=("causal-conv1d-version-skew",),
    against=(
        Against(r"causal_conv1d_(?:fwd|bwd)\(\): incompatible", removes=True, near=1),
    ),
)

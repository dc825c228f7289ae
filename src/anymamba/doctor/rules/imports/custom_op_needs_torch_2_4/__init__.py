"""causal-conv1d 1.5.1 on an older torch."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM107",
    cause="custom-op-needs-torch-2-4",
    order=523,
    signatures=(
        Signature(
            r"module 'torch\.library' has no attribute '(?:custom_op|register_fake|triton_op"
            r"|register_autograd)'", bare=True,
        ),
        Signature(
            r"module 'torch\.amp' has no attribute 'custom_(?:fwd|bwd)'|cannot import name 'custom_(?:fwd"
            r"|bwd)' from 'torch\.amp'", bare=True,
        ),
        Signature(r"custom_(?:fwd|bwd)\(\) got an unexpected keyword argument 'device_type'", bare=True),
    ),
    explains=("broken-package-reported-missing", "transformers-fast-path-warning",),
)

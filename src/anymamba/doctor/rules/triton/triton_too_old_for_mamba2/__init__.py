"""Mamba-2's kernels on Triton 2.0."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Rule, Signature

RULE = Rule(
    code="AM097",
    cause="triton-too-old-for-mamba2",
    order=608,
    signatures=(
        Signature(
            r"module 'triton\.language' has no attribute '(?:cumsum|associative_scan|static_range|softplus"
            r"|reduce|make_block_ptr)'", bare=True,
        ),
        Signature(
            r"IncompatibleTypeErrorImpl\('invalid operands of type pointer<int64> and triton\.language\.int32"
            r"'\)", bare=True,
        ),
        Signature(r"File .<string>., line \d+, in _(?:chunk|state|bmm|mamba)\w*_kernel\s+KeyError: \('2-\.-0-\.-0-", own=True),
        Signature(r"module 'triton' has no attribute '(?:language|jit|autotune|heuristics|Config)'"),
        Signature(
            r"(?:autotune|JITFunction)\S*\(\) got an unexpected keyword argument '(?:pre_hook|restore_value"
            r"|prune_configs_by|do_not_specialize)'", confidence=LIKELY,
        ),
    ),
)

"""Model sizes that the official kernels refuse."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Rule, Signature

RULE = Rule(
    code="AM110",
    cause="sizes-not-supported",
    order=632,
    signatures=(
        Signature(r"selective_scan only supports state dimension <= 256", own=True),
        Signature(r"causal_conv1d only supports width between 2 and 4", own=True),
        Signature(r"assert self\.d_ssm % self\.headdim == 0|assert self\.d_inner % self\.headdim == 0", own=True),
        Signature(r"causal_conv1d_cuda[^\n]*\n?[^\n]*Expected (?:width|dim|seqlen)\b[^\n]*", own=True, confidence=LIKELY),
        Signature(r"RuntimeError: (?:This selective_scan|selective_scan\w*|causal_conv1d\w*) only supports [^\n]*", own=True),
    ),
)

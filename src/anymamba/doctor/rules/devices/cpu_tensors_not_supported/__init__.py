"""The official kernels do not run on a CPU."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM065",
    cause="cpu-tensors-not-supported",
    order=620,
    signatures=(
        Signature(r"Expected (?:u|x|A|B|C|delta|conv_state|weight)\.is_cuda\(\) to be true,? but got false", bare=True),
        Signature(r"Expected \w+\.is_cuda\(\) to be true,? but got false"),
        Signature(
            r"(?:selective_scan|causal_conv1d)\w*[^\n]*(?:CPU tensor|'CPU' backend|only supports CUDA)", own=True
        ),
    ),
)

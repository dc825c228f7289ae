"""transformers wants a newer torch."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Rule, Signature

RULE = Rule(
    code="AM052",
    cause="transformers-too-new-for-torch",
    order=522,
    signatures=(
        Signature(r"module 'torch\.utils\._pytree' has no attribute 'register_pytree_node'"),
        Signature(r"Disabling PyTorch because PyTorch >= ?\d\.\d+ is required but found"),
        Signature(
            r"module 'torch\.\w+(?:\.\w+)*' has no attribute '(?:float8_e\w+|get_default_device|DeviceMesh)'|cannot"
            r" import name 'DeviceMesh' from 'torch",
            confidence=LIKELY,
        ),
    ),
)

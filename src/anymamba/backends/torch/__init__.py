"""Plain PyTorch, vectorised: every op with every option on every device that PyTorch has, and nothing to compile.

The first column of the table: what runs when no faster backend can. ``mamba_inner_fn`` and ``mamba_split_conv1d_scan_combined``
are not listed because they are not fused here: anymamba.ops composes them of the ops below.
"""

from __future__ import annotations

import torch

from anymamba.backends.call import Call
from anymamba.language import _

OPS: dict[str, str] = {
    "causal_conv1d_fn": "anymamba.backends.torch.causal_conv1d",
    "causal_conv1d_update": "anymamba.backends.torch.causal_conv1d",
    "selective_scan_fn": "anymamba.backends.torch.selective_scan",
    "selective_state_update": "anymamba.backends.torch.selective_state_update",
    "mamba_chunk_scan_combined": "anymamba.backends.torch.ssd",
    "mamba3_siso": "anymamba.backends.torch.mamba3",
    "mamba3_mimo": "anymamba.backends.torch.mamba3",
    "mamba3_state_update": "anymamba.backends.torch.mamba3_state_update",
    "layer_norm_fn": "anymamba.backends.torch.norm",
    "rms_norm_fn": "anymamba.backends.torch.norm",
    "layernorm_fn": "anymamba.backends.torch.norm_gated",
    "rmsnorm_fn": "anymamba.backends.torch.norm_gated",
    "log_softmax_and_slope": "anymamba.backends.torch.cross_entropy",
    "widened_product": "anymamba.backends.torch.widened_product",
    "decode_step": "anymamba.backends.torch.decode_step",
}


def available() -> tuple[bool, str]:
    return True, _("runs on every device")


def supports(call: Call) -> tuple[bool, str]:
    """Every option of every op; the op modules import this name."""
    return True, _("plain PyTorch, every option")


def versions() -> str:
    return f"torch {torch.__version__}"

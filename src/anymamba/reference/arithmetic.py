"""The dtype that a reference computes in, and the two activations that the ops know."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def working_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The widest real dtype among the floating and complex tensors, float32 at least: float64 as soon as one of them has it."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None and (tensor.is_floating_point() or tensor.is_complex()):
            dtype = torch.promote_types(dtype, tensor.dtype.to_real())
    return dtype


def activate(x: Tensor, activation: str | None) -> Tensor:
    """x, or silu(x) for "silu" and "swish"."""
    if activation not in (None, "silu", "swish"):
        raise NotImplementedError(f"activation must be None, 'silu' or 'swish', not {activation!r}")
    return x if activation is None else F.silu(x)

"""LayerNorm and RMSNorm over groups of channels, with a SiLU gate before or after."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from anymamba.backends.torch import supports as supports
from anymamba.backends.torch.norm import normalised
from anymamba.backends.torch.precision import full_precision, wide_dtype


def layernorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
) -> Tensor:
    """See anymamba.ops.layernorm_fn. x, z: (..., width)."""
    with full_precision(x.device):
        out = x.to(wide_dtype(x, weight, z))
        gate = None if z is None else F.silu(z.to(out.dtype))
        if gate is not None and not norm_before_gate:
            out = out * gate
        if group_size is None or group_size == x.shape[-1]:
            out = normalised(out, weight, bias, eps, is_rms_norm)
        else:
            ones = weight.new_ones(group_size, dtype=out.dtype)
            out = normalised(out.unflatten(-1, (-1, group_size)), ones, None, eps, is_rms_norm).flatten(-2)
            out = out * weight.to(out.dtype)
            out = out if bias is None else out + bias.to(out.dtype)
        if gate is not None and norm_before_gate:
            out = out * gate
        return out.to(x.dtype)


def rmsnorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
) -> Tensor:
    """See anymamba.ops.rmsnorm_fn: layernorm_fn without subtracting the mean."""
    return layernorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate, is_rms_norm=True)

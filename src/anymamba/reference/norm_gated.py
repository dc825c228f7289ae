"""Layer norm and RMS norm over groups of channels, with the gate silu(z) before or after (Mamba-2, section 7.3).

Semantics of ``mamba_ssm.ops.triton.layernorm_gated``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.reference import supports as supports
from anymamba.reference.arithmetic import working_dtype


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
    """norm(x) * silu(z) if norm_before_gate, else norm(x * silu(z)); norm(x) without z.

    x, z (..., dim); weight, bias (dim,); statistics over each group_size channels (None: all). Returns the dtype of x.
    """
    dtype = working_dtype(x, weight, z)
    values = x.to(dtype)
    if z is not None and not norm_before_gate:
        values = values * F.silu(z.to(dtype))
    groups = values.unflatten(-1, (-1, group_size or x.shape[-1]))
    if not is_rms_norm:
        groups = groups - groups.mean(dim=-1, keepdim=True)
    normal = (groups * torch.rsqrt(groups.square().mean(dim=-1, keepdim=True) + eps)).flatten(-2)
    out = normal * weight.to(dtype)
    if bias is not None:
        out = out + bias.to(dtype)
    if z is not None and norm_before_gate:
        out = out * F.silu(z.to(dtype))
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
    """layernorm_fn without the subtraction of the mean."""
    return layernorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate, is_rms_norm=True)

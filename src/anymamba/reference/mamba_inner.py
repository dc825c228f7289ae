"""The whole inside of a Mamba-1 mixer: convolution, the projections that make delta, B and C, the scan, the output projection.

Semantics of ``mamba_inner_fn`` of mamba_ssm (Mamba, figure 3 and algorithm 2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.reference import supports as supports
from anymamba.reference.arithmetic import working_dtype
from anymamba.reference.causal_conv1d import causal_conv1d_fn
from anymamba.reference.selective_scan import selective_scan_fn


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:
    """xz (batch, 2 * dim, length); conv1d_weight (dim, 1, width); x_proj_weight (dt_rank + d_state of B + d_state of C, dim), only the
    parts that are not given as B or C, twice d_state each when A is complex; delta_proj_weight (dim, dt_rank);
    out_proj_weight (d_model, dim). dt_rms_weight (dim,) normalises delta after its projection, b_rms_weight and c_rms_weight
    (d_state,) normalise B and C. checkpoint_lvl changes no result. Returns (batch, length, d_model).
    """
    dtype = working_dtype(xz, A, x_proj_weight, delta_proj_weight, out_proj_weight)
    x, z = xz.to(dtype).chunk(2, dim=1)
    weight = conv1d_weight.to(dtype)[:, 0]
    mixed = causal_conv1d_fn(x, weight, conv1d_bias, activation="silu")
    assert isinstance(mixed, Tensor)
    d_state = A.shape[1] * (2 if A.is_complex() else 1)
    sizes = [delta_proj_weight.shape[1], *(d_state for given in (B, C) if given is None)]
    parts = list(torch.split(F.linear(mixed.mT, x_proj_weight.to(dtype)), sizes, dim=2))
    delta = F.linear(parts.pop(0), delta_proj_weight.to(dtype))
    if dt_rms_weight is not None:
        delta = _rms_norm(delta, dt_rms_weight, b_c_dt_rms_eps)
    if B is None:
        B = _over_time(parts.pop(0), B_proj_bias, b_rms_weight, b_c_dt_rms_eps, A.is_complex())
    if C is None:
        C = _over_time(parts.pop(0), C_proj_bias, c_rms_weight, b_c_dt_rms_eps, A.is_complex())
    y = selective_scan_fn(mixed, delta.mT, A, B, C, D, z, delta_bias, delta_softplus)
    assert isinstance(y, Tensor)
    bias = None if out_proj_bias is None else out_proj_bias.to(dtype)
    return F.linear(y.mT, out_proj_weight.to(dtype), bias).to(xz.dtype)


def _over_time(
    projected: Tensor, bias: Tensor | None, rms_weight: Tensor | None, eps: float, complex_A: bool
) -> Tensor:
    """(batch, length, d_state) as (batch, d_state, length); with complex A (batch, length, 2 d_state), real and imaginary part of
    each state side by side, as (batch, d_state, 2 * length), the two parts of each token side by side."""
    if bias is not None:
        projected = projected + bias.to(projected.dtype)
    if complex_A:
        projected = projected.unflatten(2, (-1, 2)).transpose(2, 3).flatten(1, 2)
    if rms_weight is not None:
        projected = _rms_norm(projected, rms_weight, eps)
    return projected.mT


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight.to(x.dtype)

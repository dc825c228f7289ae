"""Launches of the norm kernels over a tensor seen as rows; shared by norm and norm_gated."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.backends.triton.launch import lanes, on_device, power_of_2, processors
from anymamba.backends.triton.norm.norm_kernels import (
    norm_backward_kernel,
    norm_forward_kernel,
    norm_weight_backward_kernel,
)


def norm_forward(
    x: Tensor,
    residual: Tensor | None,
    z: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    group_size: int,
    rms: bool,
    norm_first: bool,
    sum_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """x, residual, z: (rows, width), last stride 1. Returns y in the dtype of x, x + residual in sum_dtype (None: not stored), and
    mean (None for RMS) and scale, (rows, groups) float32."""
    rows, width = x.shape
    groups = width // group_size
    weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    y = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    total = None if sum_dtype is None else torch.empty((rows, width), dtype=sum_dtype, device=x.device)
    scale = torch.empty((rows, groups), dtype=torch.float32, device=x.device)
    mean = None if rms else torch.empty_like(scale)
    block = power_of_2(group_size)
    with on_device(x):
        norm_forward_kernel[(rows, groups)](
            x, residual, z, weight, bias, y, total, mean, scale,
            x.stride(0), *(0 if t is None else t.stride(0) for t in (residual, z)), width, width, rows, group_size, eps,
            BLOCK=block, RMS=rms, HAS_BIAS=bias is not None, HAS_RESIDUAL=residual is not None, STORE_SUM=total is not None,
            HAS_Z=z is not None, NORM_FIRST=norm_first, num_warps=_warps(block, x.device), num_stages=1,
        )  # fmt: skip
    return y, total, mean, scale


def norm_backward(
    dy: Tensor,
    dsum: Tensor | None,
    x: Tensor,
    residual: Tensor | None,
    z: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor | None,
    scale: Tensor,
    group_size: int,
    norm_first: bool,
    dx_dtype: torch.dtype,
    dresidual_dtype: torch.dtype | None,
    warps: int | None = None,
    programs: int | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor, Tensor | None]:
    """Gradients of x, of residual (in dresidual_dtype; None: not stored), of z, weight and bias. programs: a multiprocessor."""
    rows, width = x.shape
    groups = width // group_size
    device = x.device
    weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    dx = torch.empty((rows, width), dtype=dx_dtype, device=device)
    dresidual = None if dresidual_dtype is None else torch.empty((rows, width), dtype=dresidual_dtype, device=device)
    dz = None if z is None else torch.empty((rows, width), dtype=z.dtype, device=device)
    block = power_of_2(group_size)
    # as many as a multiprocessor has room for at the same time, so that each leaves one sum
    programs = min(rows, max((programs or (8 if block <= 2048 else 2)) * processors(device) // groups, 1))
    each = -(-rows // programs)
    programs = -(-rows // each)
    dweight = torch.empty((programs, width), dtype=torch.float32, device=device)
    dbias = None if bias is None else torch.empty_like(dweight)
    # with a gate and a mean, sums of so many columns would not stay in registers
    separate = z is not None and mean is not None and block >= 8192
    if warps is None:
        warps = _backward_warps(block, mean is None, dsum is not None, z is not None and x.element_size() == 2, device)
    with on_device(x):
        norm_backward_kernel[(programs, groups)](
            x, residual, z, weight, bias, mean, scale, dy, dsum, dx, dresidual, dz, dweight, dbias,
            x.stride(0), *(0 if t is None else t.stride(0) for t in (residual, z)), dy.stride(0),
            0 if dsum is None else dsum.stride(0), width, width, width, rows, group_size, each,
            BLOCK=block, RMS=mean is None, HAS_BIAS=bias is not None, HAS_RESIDUAL=residual is not None,
            HAS_DSUM=dsum is not None, STORE_DRESIDUAL=dresidual is not None, HAS_Z=z is not None, NORM_FIRST=norm_first,
            ACCUMULATE=not separate, REREAD=block // (warps * lanes(device)) >= 32 or block >= 8192, num_warps=warps, num_stages=1,
        )  # fmt: skip
        if separate and z is not None:
            part = 1024
            norm_weight_backward_kernel[(programs, -(-group_size // part), groups)](
                x, z, mean, scale, dy, dweight, dbias, x.stride(0), z.stride(0), dy.stride(0), rows, group_size, each,
                BLOCK=part, RMS=mean is None, HAS_BIAS=bias is not None, NORM_FIRST=norm_first, num_warps=4, num_stages=1,
            )  # fmt: skip
    return dx, dresidual, dz, dweight.sum(0).to(weight.dtype), None if bias is None or dbias is None else dbias.sum(0).to(bias.dtype)


def as_rows(x: Tensor) -> Tensor:
    """(..., width) as (rows, width), last stride 1; a view wherever the strides allow."""
    x = x.reshape(-1, x.shape[-1])
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _warps(block: int, device: torch.device) -> int:
    """About 16 values a lane."""
    return max(min(block // (16 * lanes(device)), 16), 1)


def _backward_warps(block: int, rms: bool, has_dsum: bool, half_gate: bool, device: torch.device) -> int:
    """Layer norm with a gradient of the sum holds more values at a time, of half as many columns. half_gate: a gate, and 16 bits a value,
    where four warps with 32 values a lane were a quarter faster on an H200 than eight with 16."""
    if rms and half_gate and block == 4096 and lanes(device) == 32:
        return 4
    return _warps(block, device) if rms or not has_dsum else min(2 * _warps(block, device), 16)

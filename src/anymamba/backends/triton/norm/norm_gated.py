"""The gated norms of Mamba-2, layernorm_fn and rmsnorm_fn, on Triton kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.transforms import first_derivative_only
from anymamba.backends.triton.launch import power_of_2, runs_here
from anymamba.backends.triton.norm.norm_rows import as_rows, norm_backward, norm_forward


def supports(call: Call) -> tuple[bool, str]:
    """Every option."""
    return runs_here(call)


def variant(call: Call) -> str:
    """A kernel is compiled for the power of 2 that holds a row, or a group of it."""
    return f"rows of {power_of_2(call.size('group_size', 10))}"


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
    """See anymamba.ops.layernorm_fn. x, z: (..., dim), rows of any stride."""
    return _GatedNorm.apply(x, weight, bias, z, float(eps), group_size or x.shape[-1], bool(norm_before_gate), bool(is_rms_norm))


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


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        z: Tensor | None,
        eps: float,
        group_size: int,
        norm_first: bool,
        rms: bool,
    ) -> Tensor:
        rows, gate = as_rows(x), None if z is None else as_rows(z)
        y, _, mean, scale = norm_forward(rows, None, gate, weight, bias, eps, group_size, rms, norm_first, None)
        ctx.save_for_backward(rows, gate, weight, bias, mean, scale)
        ctx.options = group_size, norm_first
        return y.view(x.shape)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        rows, gate, weight, bias, mean, scale = ctx.saved_tensors
        group_size, norm_first = ctx.options
        dx, _, dz, dweight, dbias = norm_backward(
            as_rows(dy), None, rows, None, gate, weight, bias, mean, scale, group_size, norm_first, rows.dtype, None
        )
        return dx.view(dy.shape), dweight, dbias, None if dz is None else dz.view(dy.shape), None, None, None, None

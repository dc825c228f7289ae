"""layer_norm_fn and rms_norm_fn on Triton kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.transforms import first_derivative_only
from anymamba.backends.triton.launch import power_of_2, runs_here
from anymamba.backends.triton.norm.norm_rows import as_rows, norm_backward, norm_forward
from anymamba.language import _


def supports(call: Call) -> tuple[bool, str]:
    """The norm with its residual; not dropout, row scales or a second branch."""
    ok, reason = runs_here(call)
    missing = call.features & {"x1", "weight1", "bias1", "rowscale", "dropout"}
    if ok and missing:
        names = ", ".join(sorted(missing))
        return False, _("has no kernel for {names}").format(names=names)
    return ok, reason


def variant(call: Call) -> str:
    """A kernel is compiled for the power of 2 that holds a row."""
    return f"rows of {power_of_2(call.size('dim', 20))}"


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    return_dropout_mask: bool = False,
) -> Tensor | tuple[Tensor | None, ...]:
    """See anymamba.ops.layer_norm_fn. x: (..., dim)."""
    y, total = _Norm.apply(x, weight, bias, residual, float(eps), bool(prenorm), bool(is_rms_norm))
    outputs: list[Tensor | None] = [y]
    if prenorm:
        if total is None:
            total = x.float() if residual_in_fp32 else x
        outputs.append(total)
    if return_dropout_mask:
        outputs += [None, None]
    return y if len(outputs) == 1 else tuple(outputs)


def rms_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    return_dropout_mask: bool = False,
) -> Tensor | tuple[Tensor | None, ...]:
    """See anymamba.ops.rms_norm_fn: layer_norm_fn without subtracting the mean."""
    return layer_norm_fn(
        x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, prenorm, residual_in_fp32,
        is_rms_norm=True, return_dropout_mask=return_dropout_mask,
    )  # fmt: skip


class _Norm(torch.autograd.Function):
    """y and, where there is a residual and prenorm, x + residual."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, eps: float, prenorm: bool, rms: bool
    ) -> tuple[Tensor, Tensor | None]:
        rows = as_rows(x)
        residual_rows = None if residual is None else as_rows(residual)
        sum_dtype = residual.dtype if residual is not None and prenorm else None
        y, total, mean, scale = norm_forward(rows, residual_rows, None, weight, bias, eps, rows.shape[1], rms, True, sum_dtype)
        # the stored sum stands in for both of its terms where it is exact
        summed = total is not None and total.dtype == torch.float32
        ctx.save_for_backward(total if summed else rows, None if summed else residual_rows, weight, bias, mean, scale)
        ctx.dtypes = x.dtype, None if residual is None else residual.dtype
        return y.view(x.shape), None if total is None else total.view(x.shape)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dy: Tensor, dsum: Tensor | None) -> tuple[Tensor | None, ...]:
        rows, residual_rows, weight, bias, mean, scale = ctx.saved_tensors
        dx_dtype, residual_dtype = ctx.dtypes
        dsum = None if dsum is None else as_rows(dsum)
        dx, dresidual, _, dweight, dbias = norm_backward(
            as_rows(dy), dsum, rows, residual_rows, None, weight, bias, mean, scale, rows.shape[1], True, dx_dtype,
            None if residual_dtype in (None, dx_dtype) else residual_dtype,
        )  # fmt: skip
        dx = dx.view(dy.shape)
        if dresidual is not None:
            dresidual = dresidual.view(dy.shape)
        elif residual_dtype is not None:
            dresidual = dx
        return dx, dweight, dbias, dresidual, None, None, None

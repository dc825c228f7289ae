"""The product of a linear layer with a low-rank change beside its weight, y = x (W + s B A)^T + bias, without W + s B A in memory.

Source: Hu et al. 2021, "LoRA", section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anymamba.backends.transforms import differentiated_again, transformed
from anymamba.ops import projection


class Change(NamedTuple):
    """A change of rank r of a weight (out, in): scaling * B A, with A (r, in) and B (out, r)."""

    A: Tensor
    B: Tensor
    scaling: float


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, changes: Sequence[Change]) -> Tensor:
    """x (weight + sum of changes)^T + bias; x (..., in), weight (out, in), bias (out,), result (..., out).

    dtypes as of ``projection.linear``; differentiable in every tensor. What a frozen tensor's gradient would cost is not computed.
    """
    if not changes:
        return projection.linear(x, weight, bias)
    if not _kept_together(x, weight):
        return _in_parts(x, weight, bias, *changes)
    first, *others = changes
    rows = x.reshape(-1, x.shape[-1])
    y: Tensor = _Node.apply(rows, weight, bias, first.A, first.B, first.scaling)
    y = y.view(*x.shape[:-1], weight.shape[0])
    return added(y, x, *others)


def added(y: Tensor, x: Tensor, *changes: Change) -> Tensor:
    """y (..., out) and what the changes make of x (..., in)."""
    for A, B, scaling in changes:
        y = y + scaling * projection.linear(projection.linear(x, A), B).to(y.dtype)
    return y


def row_norms(weight: Tensor, changes: Sequence[Change]) -> Tensor:
    """The norms of the rows of weight + changes, (out,), in float32 or better, from products with A and B alone. No gradients."""
    with torch.no_grad():
        wide = torch.promote_types(weight.dtype, torch.float32)
        squares = torch.linalg.vector_norm(weight, dim=1, dtype=wide).square()
        W = weight.to(wide)
        low = [(change.A.to(wide), change.B.to(wide) * change.scaling) for change in changes]
        for A, B in low:
            squares = squares + 2 * ((W @ A.t()) * B).sum(1)
        for A, B in low:
            for other_A, other_B in low:
                squares = squares + ((B @ (A @ other_A.t())) * other_B).sum(1)
        return squares.clamp_min(0).sqrt()


def _kept_together(x: Tensor, weight: Tensor) -> bool:
    """Whether one node may stand for the products: nothing captures or transforms them."""
    return projection._plain(x, weight) and not transformed()


def _in_parts(x: Tensor, weight: Tensor, bias: Tensor | None, *changes: Change) -> Tensor:
    return added(projection.linear(x, weight, bias), x, *changes)


class _Node(torch.autograd.Function):
    """One change, rows (tokens, in). Beside the rows it keeps (tokens, r) for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scaling: float) -> Tensor:
        dtype = projection.result_dtype(x)
        y, low = projection.linear(x, weight, bias), projection.linear(x, A)
        with torch.autocast(x.device.type, enabled=False):
            _add_product(y, low, B.t(), scaling)
        ctx.save_for_backward(x, weight, bias, A, B, low)
        ctx.scaling, ctx.dtype = scaling, dtype
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        x, weight, bias, A, B, low = ctx.saved_tensors
        of_x, of_weight, of_bias, of_A, of_B, _ = ctx.needs_input_grad
        dtype, scaling = ctx.dtype, ctx.scaling
        if torch.is_grad_enabled():
            return _again(x, weight, bias, A, B, scaling, dy)
        dx = dweight = dbias = dA = dB = None
        with torch.autocast(dy.device.type, enabled=False):
            dy = dy.to(dtype)
            narrow = projection.product(dy, B.t(), dtype) if of_x or of_A else None  # (tokens, r)
            if of_x:
                assert narrow is not None
                dx = projection.product(dy, weight.t(), dtype)
                _add_product(dx, narrow, A, scaling)
                dx = dx.to(x.dtype)
            if of_weight:
                dweight = _of_weight(dy, x, weight.dtype)
            if of_bias:
                dbias = dy.sum(0, dtype=torch.promote_types(dtype, torch.float32)).to(bias.dtype)
            if of_A:
                assert narrow is not None
                dA = _of_weight(narrow, x, A.dtype).mul_(scaling)
            if of_B:
                dB = _of_weight(dy, low, B.dtype).mul_(scaling)
        return dx, dweight, dbias, dA, dB, None


def _add_product(y: Tensor, low: Tensor, right: Tensor, scaling: float) -> None:
    """y += scaling * low @ right, in place; right (r, columns)."""
    if projection.in_float32(y.dtype, low, right):
        y.add_(projection.product(low, right.t(), torch.float32), alpha=scaling)
    else:
        y.addmm_(low, right.to(y.dtype), alpha=scaling)


def _of_weight(dy: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """dy^T x: the gradient of a weight, (out, in)."""
    return projection.product(dy.t(), x.to(dy.dtype).t(), dtype)


def _again(
    x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scaling: float, dy: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients under create_graph=True."""
    inputs = [x, weight, A, B] if bias is None else [x, weight, A, B, bias]

    def function(x: Tensor, weight: Tensor, A: Tensor, B: Tensor, bias: Tensor | None = None) -> Tensor:
        return _in_parts(x, weight, bias, Change(A, B, scaling)).to(dy.dtype)

    dx, dweight, dA, dB, *rest = differentiated_again(function, inputs, dy)
    return dx, dweight, rest[0] if rest else None, dA, dB, None

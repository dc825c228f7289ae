"""The matrix products inside models and composed ops: every linear layer's weights go through ``linear``, ``linear_int8`` or
``linear_stored``.

On a processor without 16-bit matrix units torch emulates 16-bit products at a fifth of float32's speed; there they are computed in
float32 from weights that are widened on the way (the op ``widened_product``), which is no slower than float32 and rounds less.
Everywhere else, and in a captured graph, which may run on another machine, they are torch's own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymamba.backends import matrix_units
from anymamba.ops.widened_product import widened_product
from anymamba.reference import blocks


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, x (..., in), weight (out, in), bias (out,), differentiable. Under torch.autocast in its dtype; else in the dtype
    of x, to which weight and bias are cast."""
    dtype = result_dtype(x)
    if in_float32(dtype, x, weight):
        return _rows(x.to(dtype), weight, dtype, bias)
    if autocast_dtype(x.device) is not None:
        return F.linear(x, weight, bias)
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def linear_int8(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ (weight * scale[:, None]).T + bias in the dtype of x (under torch.autocast in its), x (..., in), weight (out, in) int8, scale
    and bias (out,) float32. Differentiable in x."""
    dtype = result_dtype(x)
    if x.device.type == "cpu" and x.dtype != torch.float64 and not matrix_units.cpu_unit(dtype) and _plain(x, weight):
        return _rows(x.to(dtype), weight, dtype, bias, scale)
    return F.linear(x.to(dtype), (weight.float() * scale[:, None]).to(dtype), None if bias is None else bias.to(dtype))


def linear_stored(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias in the dtype of x (under torch.autocast in its), from weights in another: x (..., in), weight (out, in) of
    16 bits or (out, bytes) uint8 in blocks (``anymamba.reference.blocks``), bias (out,). Differentiable in x."""
    dtype = result_dtype(x)
    if x.device.type == "cpu" and x.dtype != torch.float64 and _plain(x, weight):
        return _rows(x.to(dtype), weight, dtype, bias)
    wide = blocks.unpacked(weight, x.shape[-1], dtype) if weight.dtype == torch.uint8 else weight.to(dtype)
    return F.linear(x.to(dtype), wide, None if bias is None else bias.to(dtype))


def product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a @ b.T in ``dtype``, a (rows, depth), b (columns, depth); no gradients. In 16 bits on the CPU as ``linear`` computes it."""
    if in_float32(a.dtype, a, b) or in_float32(b.dtype, a, b):
        return widened_product(a, b, dtype=dtype)
    return (a @ b.to(a.dtype).t()).to(dtype)


def result_dtype(x: Tensor) -> torch.dtype:
    """What torch.autocast asks of a product with x, or the dtype of x."""
    return autocast_dtype(x.device) or x.dtype


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype of products under torch.autocast, or None outside of it."""
    kind = device.type  # torch raises for "meta"
    return torch.get_autocast_dtype(kind) if kind != "meta" and torch.is_autocast_enabled(kind) else None


def in_float32(dtype: torch.dtype, *operands: Tensor) -> bool:
    """Whether products that are to be in this dtype are computed from widened tiles here."""
    if not matrix_units.widens(dtype):
        return False
    return all(x.device.type == "cpu" and x.dtype != torch.float64 and not x.is_complex() for x in operands) and _plain(*operands)


def _plain(*operands: Tensor) -> bool:
    """No graph is being captured, and no subclass or functional transform has products of its own."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return all(type(x) in (Tensor, nn.Parameter) for x in operands)


def _rows(x: Tensor, weight: Tensor, dtype: torch.dtype, bias: Tensor | None, scale: Tensor | None = None) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled():
        y: Tensor = _Product.apply(rows, weight, dtype, bias, scale)
    else:
        y = widened_product(rows, weight, bias, scale, dtype)
    return y.view(*x.shape[:-1], weight.shape[0])


class _Product(torch.autograd.Function):
    """(a @ b.T) * scale + bias; its gradients are products of the same kind, so that it can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, dtype: torch.dtype, bias: Tensor | None, scale: Tensor | None) -> Tensor:
        ctx.save_for_backward(a, b, scale)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return widened_product(a, b, bias, scale, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        a, b, scale = ctx.saved_tensors
        of_a, of_b, _, of_bias, _ = ctx.needs_input_grad
        da = db = dbias = None
        if of_a:
            b = blocks.unpacked(b, a.shape[1]) if b.dtype == torch.uint8 else b
            da = _Product.apply(dy if scale is None else dy.float() * scale, b.t(), a.dtype, None, None)
        if of_b:
            db = _Product.apply(dy.t(), a.t(), b.dtype, None, None)
        if of_bias:
            dbias = dy.sum(0, dtype=torch.float32).to(ctx.bias_dtype)
        return da, db, None, dbias, None

"""Layer norm and RMS norm on the CPU, fused with the residual sum."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.cpu.jit.compile import Program
from anymamba.backends.cpu.jit.emit import dtype_name
from anymamba.backends.cpu.norm import norm_kernels as kernels
from anymamba.backends.torch.norm import normalised
from anymamba.backends.transforms import first_derivative_only
from anymamba.language import _

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_ALONE = 2**15
"""Elements below which waking other cores costs more than they save."""

_FEW = 2**12


def supports(call: Call) -> tuple[bool, str]:
    if call.dtype not in _DTYPES:
        return False, _("no kernels for {dtype}").format(dtype=call.dtype)
    for name in ("x1", "weight1", "rowscale", "dropout"):
        if name in call.features:
            return False, _("{name} is not fused").format(name=name)
    return True, _("compiled kernels")


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
    """See anymamba.ops.layer_norm_fn. x, residual (..., dim)."""
    if residual is None and not is_rms_norm and _native(x, weight, bias):
        y = normalised(x.float(), weight, bias, eps, False).to(x.dtype)
        plain = (y, *([x] if prenorm else ()), *([None, None] if return_dropout_mask else ()))
        return y if len(plain) == 1 else plain
    arguments = x, weight, bias, residual, eps, prenorm, not is_rms_norm
    y, total = _Norm.apply(*arguments) if torch.is_grad_enabled() else _forward(*arguments, keeps=False)[:2]
    outputs: list[Tensor | None] = [y]
    if prenorm:
        if residual is None:
            total = x.float() if residual_in_fp32 else x
        outputs.append(total)
    if return_dropout_mask:
        outputs += [None, None]
    return outputs[0] if len(outputs) == 1 and outputs[0] is not None else tuple(outputs)


def _native(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Where nothing is fused with a layer norm, PyTorch's own backward pass, which needs no Python, is faster than ours, in 16 bits for few
    numbers; forward alone ours is."""
    tensors = [tensor for tensor in (x, weight, bias) if tensor is not None]
    needed = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return needed and (x.numel() <= _FEW or all(tensor.dtype == torch.float32 for tensor in tensors))


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
        x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, prenorm, residual_in_fp32, True, return_dropout_mask
    )


@functools.cache
def program(name: str, build: Callable[..., None], *options: Any) -> Program:
    """dtypes arrive as torch has them: their names would cost more than the look-up."""
    return Program(name, build, *(dtype_name(o) if isinstance(o, torch.dtype) else o for o in options))


def as_rows(tensor: Tensor) -> Tensor:
    """(rows, dim) with contiguous channels; a view where the strides allow."""
    rows = tensor if tensor.dim() == 2 else tensor.reshape(-1, tensor.shape[-1])
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()


def dtype_of(tensor: Tensor | None) -> torch.dtype | None:
    return None if tensor is None else tensor.dtype


def workers_for(tensor: Tensor) -> int:
    return 1 if tensor.numel() < _ALONE else torch.get_num_threads()


def blocks_of(rows: int) -> tuple[int, int]:
    """(blocks, rows of a block). Each block sums the weights' gradients apart: 16 of them on up to 16 cores, so that the rounding does
    not depend on the number of threads there."""
    block = max(4, -(-rows // max(16, torch.get_num_threads())))
    return -(-rows // block), block


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, eps: float, prenorm: bool, centred: bool, keeps: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y, the sum in the dtype of residual if prenorm and there is one, and if keeps the statistics (rows, 2)."""
    lines, added = as_rows(x), None if residual is None else as_rows(residual)
    rows, dim = lines.shape
    weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    y = x.new_empty(x.shape)
    total = None if residual is None or not prenorm else residual.new_empty(residual.shape)
    statistics = torch.empty(rows, 2) if keeps else None
    blocks, block = blocks_of(rows)
    options = x.dtype, weight.dtype, dtype_of(bias), dtype_of(added), dtype_of(total), keeps, centred
    program("norm", kernels.forward, *options).run(
        blocks, workers=workers_for(x), x=lines, y=y, residual=added, total=total, weight=weight, bias=bias,
        statistics=statistics, dim=dim, rows=rows, block=block, eps=float(eps), x_row=lines.stride(0),
        residual_row=0 if added is None else added.stride(0),
    )  # fmt: skip
    return y, total, statistics


class _Norm(torch.autograd.Function):
    """Returns y and, if prenorm and there is a residual, the sum in its dtype, else None."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, eps: float, prenorm: bool, centred: bool
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        keeps = any(ctx.needs_input_grad)
        y, total, statistics = _forward(x, weight, bias, residual, eps, prenorm, centred, keeps)
        if keeps:
            # a float32 sum is exact to the backward pass; a rounded one is not, and its parts are kept instead
            exact = total is not None and total.dtype == torch.float32
            saved = (total, None) if exact else (x, residual)
            ctx.save_for_backward(*saved, weight, bias, statistics)
            ctx.centred, ctx.dtypes = centred, (x.dtype, None if residual is None else residual.dtype)
        return y, total

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dy: Tensor | None, dtotal: Tensor | None) -> tuple[Tensor | None, ...]:
        x, residual, weight, bias, statistics = ctx.saved_tensors
        x_dtype, residual_dtype = ctx.dtypes
        weight = weight.contiguous()
        lines, added = as_rows(x), None if residual is None else as_rows(residual)
        rows, dim = lines.shape
        dy = torch.zeros(x.shape, dtype=x_dtype) if dy is None else dy.contiguous()
        dtotal = None if dtotal is None else dtotal.contiguous()
        dx = torch.empty(x.shape, dtype=x_dtype)
        dresidual = None if residual_dtype in (None, x_dtype) else torch.empty(x.shape, dtype=residual_dtype)
        blocks, block = blocks_of(rows)
        sums = torch.empty(1 if bias is None else 2, blocks, dim)
        options = lines.dtype, dy.dtype, weight.dtype, bias is not None, dtype_of(added), dtype_of(dtotal), dtype_of(dresidual)
        program("norm_backward", kernels.backward, *options, ctx.centred).run(
            blocks, workers=workers_for(x), x=lines, residual=added, dy=dy, dtotal=dtotal, dx=dx,
            dresidual=dresidual, weight=weight, statistics=statistics, dweight=sums[0], dbias=None if bias is None else sums[1],
            dim=dim, rows=rows, block=block, x_row=lines.stride(0), residual_row=0 if added is None else added.stride(0),
        )  # fmt: skip
        totals = sums.sum(1)
        dbias = None if bias is None else totals[1].to(bias.dtype)
        if residual_dtype is not None and dresidual is None:
            dresidual = dx
        return dx, totals[0].to(weight.dtype), dbias, dresidual, None, None, None

"""The causal depthwise convolution where a channel's tokens lie side by side, as mamba_ssm's documentation has them: read in place."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.cpu.conv import causal_conv1d_rows_kernels as kernels
from anymamba.backends.cpu.jit.compile import Program
from anymamba.backends.cpu.jit.emit import dtype_name
from anymamba.backends.transforms import first_derivative_only

_ALONE = 2**14
"""Elements below which waking other cores costs more than they save."""


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, activation: bool) -> Tensor:
    """x (batch, dim, length) with the length contiguous; the result is contiguous."""
    return _Rows.apply(x, weight, bias, initial, activation)


@functools.cache
def _program(backward: bool, *options: Any) -> Program:
    """dtypes arrive as torch has them: their names would cost more than the look-up."""
    name, build = ("causal_conv1d_rows_backward", kernels.backward) if backward else ("causal_conv1d_rows", kernels.forward)
    return Program(name, build, *(dtype_name(o) if isinstance(o, torch.dtype) else o for o in options))


def _arguments(x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None) -> tuple[dict[str, Any], int, int]:
    """Of both kernels; tasks and workers: eight blocks of rows a worker at most."""
    batch, dim, length = x.shape
    workers = 1 if x.numel() < _ALONE else torch.get_num_threads()
    block = max(1, -(-batch * dim // (8 * workers)))
    return {
        "x": x, "x_batch": x.stride(0), "x_channel": x.stride(1), "length": length, "dim": dim, "rows": batch * dim, "block": block,
        "before": None if initial is None else initial.contiguous(),
        "taps": weight.detach().float().contiguous(),
        "bias": torch.zeros(dim) if bias is None else bias.detach().float().contiguous(),
    }, -(-batch * dim // block), workers  # fmt: skip


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, activation: bool
    ) -> Tensor:
        arguments, tasks, workers = _arguments(x, weight, bias, initial)
        out = x.new_empty(x.shape)
        program = _program(False, x.dtype, weight.shape[1], activation, initial is not None)
        program.run(tasks, workers=workers, out=out, **arguments)
        ctx.activation = activation
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, weight, bias, initial)
        return out

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, initial = ctx.saved_tensors
        batch, dim, length = x.shape
        width = weight.shape[1]
        if dout.stride(2) != 1 and length > 1:
            dout = dout.contiguous()
        arguments, tasks, workers = _arguments(x, weight, bias, initial)
        dx, dtaps = x.new_empty(x.shape), torch.empty(batch, dim, width + 1)
        dbefore = None if initial is None else x.new_empty(batch, dim, width - 1)
        program = _program(True, x.dtype, width, ctx.activation, initial is not None)
        program.run(
            tasks, workers=workers, dout=dout, dout_batch=dout.stride(0), dout_channel=dout.stride(1), dx=dx, dtaps=dtaps, dbefore=dbefore,
            **arguments,
        )  # fmt: skip
        sums = dtaps.sum(0) if batch > 1 else dtaps[0]
        dbias = None if bias is None else sums[:, width].to(bias.dtype)
        return dx, sums[:, :width].flip(1).to(weight.dtype), dbias, dbefore, None

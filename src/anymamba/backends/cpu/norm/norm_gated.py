"""The gated norms of Mamba-2's mixer on the CPU, fused with the gate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.cpu.norm import norm_gated_kernels as kernels
from anymamba.backends.cpu.norm.norm import as_rows, blocks_of, dtype_of, program, workers_for
from anymamba.backends.transforms import first_derivative_only
from anymamba.language import _


def supports(call: Call) -> tuple[bool, str]:
    if call.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False, _("no kernels for {dtype}").format(dtype=call.dtype)
    return True, _("compiled kernels")


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
    """See anymamba.ops.layernorm_fn. x, z (..., dim), read where they lie if all rows are equally far apart."""
    groups = 1 if group_size is None else x.shape[-1] // group_size
    arguments = x, weight, bias, z, eps, groups, z is not None and not norm_before_gate, not is_rms_norm
    return _GatedNorm.apply(*arguments) if torch.is_grad_enabled() else _forward(*arguments, keeps=False)[0]


def rmsnorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
) -> Tensor:
    """See anymamba.ops.rmsnorm_fn."""
    return layernorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate, is_rms_norm=True)


def _room(floats: int) -> int:
    """Rounded up to a power of 4, so that few variants of a kernel are compiled."""
    room = 2**12
    while room < floats:
        room *= 4
    return room


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, z: Tensor | None, eps: float, groups: int, gate_first: bool, centred: bool, keeps: bool
) -> tuple[Tensor, Tensor | None]:
    """y and, if keeps, the statistics (rows, groups, 2)."""
    lines, gate = as_rows(x), None if z is None else as_rows(z)
    rows, dim = lines.shape
    weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    y = x.new_empty(x.shape)
    statistics = torch.empty(rows, groups, 2) if keeps else None
    blocks, block = blocks_of(rows)
    options = x.dtype, weight.dtype, dtype_of(bias), dtype_of(gate)
    program("gated_norm", kernels.forward, *options, gate_first, keeps, centred, _room(dim // groups)).run(
        blocks, workers=workers_for(x), x=lines, y=y, z=gate, weight=weight, bias=bias,
        statistics=statistics, dim=dim, rows=rows, groups=groups, block=block, eps=float(eps), x_row=lines.stride(0),
        z_row=0 if gate is None else gate.stride(0),
    )  # fmt: skip
    return y, statistics


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, z: Tensor | None, eps: float, groups: int, gate_first: bool, centred: bool
    ) -> Tensor:
        keeps = any(ctx.needs_input_grad)
        y, statistics = _forward(x, weight, bias, z, eps, groups, gate_first, centred, keeps)
        if keeps:
            ctx.save_for_backward(x, weight, bias, z, statistics)
            ctx.groups, ctx.gate_first, ctx.centred = groups, gate_first, centred
        return y

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, z, statistics = ctx.saved_tensors
        weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
        lines, gate = as_rows(x), None if z is None else as_rows(z)
        rows, dim = lines.shape
        dy = dy.contiguous()
        dx, dz = x.new_empty(x.shape), None if z is None else z.new_empty(z.shape)
        blocks, block = blocks_of(rows)
        sums = torch.empty(1 if bias is None else 2, blocks, dim)
        options = x.dtype, weight.dtype, dtype_of(bias), dtype_of(gate)
        program("gated_norm_backward", kernels.backward, *options, ctx.gate_first, ctx.centred, _room(dim // ctx.groups)).run(
            blocks, workers=workers_for(x), x=lines, dy=dy, dx=dx, z=gate, dz=dz, weight=weight, bias=bias,
            statistics=statistics, dweight=sums[0], dbias=None if bias is None else sums[1], dim=dim, rows=rows,
            groups=ctx.groups, block=block, x_row=lines.stride(0), z_row=0 if gate is None else gate.stride(0),
        )  # fmt: skip
        totals = sums.sum(1)
        dbias = None if bias is None else totals[1].to(bias.dtype)
        return dx, totals[0].to(weight.dtype), dbias, dz, None, None, None, None

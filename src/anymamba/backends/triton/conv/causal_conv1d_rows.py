"""The convolution of causal_conv1d_fn where time is contiguous in memory: which programs run, and their launches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anymamba.backends.triton.conv.causal_conv1d_rows_kernels import conv_rows_backward_kernel, conv_rows_forward_kernel
from anymamba.backends.triton.conv.causal_conv1d_sums import conv_sums
from anymamba.backends.triton.launch import is_nvidia, lanes, on_device, power_of_2, processors


@dataclass(frozen=True)
class ConvRowsPlan:
    """group: steps that a lane reads with one instruction. block: groups that a program takes at a time, of `rows` channels. stretch:
    how often it does, along the rows. tile: of these, how many have their loads in flight together (forward)."""

    group: int
    block: int
    rows: int
    stretch: int
    tile: int
    warps: int


def rows_plan(x: Tensor, backward: bool = False) -> ConvRowsPlan:
    """16 bytes a lane, and no more lanes for a row than it has use for. Backward leaves sums of each program, hence programs of one warp
    that walk far. Where rows do not start at multiples of 16 bytes the lanes of a program wait for each other to exchange what they
    read, so forward has two warps there, and else four."""
    batch, channels, length = x.shape
    group = 16 // x.element_size()
    aligned = _unit(group, x) == group
    warps = 1 if backward else 4 if aligned else 2
    tile = 2 if aligned and not backward else 1
    block = warps * lanes(x.device)
    rows = block // min(block, power_of_2(-(-length // group)))
    steps = -(-length // (group * (block // rows)))
    programs = steps * -(-channels // rows) * batch
    share = programs * warps // (32 * processors(x.device))  # leaves a multiprocessor 32 warps at least
    stretch = max(min(power_of_2(max(share, 1)), power_of_2(steps), 64), tile)
    return ConvRowsPlan(group, block, rows, stretch, tile, warps)


def in_rows(x: Tensor) -> bool:
    """Is time, and not the channels, contiguous in memory."""
    return x.stride(2) == 1 and x.stride(1) != 1


def conv_rows_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, seq_idx: Tensor | None, silu: bool, plan: ConvRowsPlan
) -> Tensor:
    """out (batch, dim, length), contiguous, in the dtype of x. x: step stride 1, not empty."""
    batch, channels, length = x.shape
    bias = None if bias is None else bias.contiguous()
    out = torch.empty((batch, channels, length), dtype=x.dtype, device=x.device)
    unit = _unit(plan.group, x)
    with on_device(x):
        conv_rows_forward_kernel[_grid(plan, x)](
            x, weight, bias, initial if initial is not None else x, seq_idx if seq_idx is not None else x, out,
            x.stride(0) // unit, x.stride(1) // unit, weight.stride(0), weight.stride(1), *_strides(initial, 3),
            *_strides(seq_idx, 2), out.stride(0) // unit, out.stride(1) // unit, length // unit, channels, plan.stretch,
            WIDTH=weight.shape[1], BLOCK=plan.block, ROWS=plan.rows, GROUP=plan.group, UNIT=unit, TILE=plan.tile,
            SILU=silu, HAS_BIAS=bias is not None, HAS_INITIAL=initial is not None, HAS_SEQ=seq_idx is not None,
            num_warps=plan.warps, num_stages=1,
        )  # fmt: skip
    return out


def conv_rows_backward(
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial: Tensor | None,
    seq_idx: Tensor | None,
    silu: bool,
    plan: ConvRowsPlan,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of x, weight, bias and the initial states, contiguous. x: step stride 1, not empty."""
    batch, channels, length = x.shape
    width, device = weight.shape[1], x.device
    bias = None if bias is None else bias.contiguous()
    if dout.stride(2) != 1:
        dout = dout.contiguous()
    dx = torch.empty((batch, channels, length), dtype=x.dtype, device=device)
    dinitial = None if initial is None else torch.empty((batch, channels, width - 1), dtype=initial.dtype, device=device)
    grid = _grid(plan, x)
    partial = torch.empty((batch * grid[1], width + (bias is not None), channels), dtype=torch.float32, device=device)
    unit = _unit(plan.group, x, dout)
    # rows at odd addresses, which lanes exchange: with registers to spare, but untold, NVIDIA's assembler spills
    limit = {"maxnreg": 255} if unit < plan.group and plan.warps == 1 and is_nvidia(x.device) else {}
    with on_device(x):
        conv_rows_backward_kernel[grid](
            x, weight, bias, initial if initial is not None else x, seq_idx if seq_idx is not None else x,
            dout, dx, dinitial, partial,
            x.stride(0) // unit, x.stride(1) // unit, weight.stride(0), weight.stride(1), *_strides(initial, 3),
            *_strides(seq_idx, 2), dout.stride(0) // unit, dout.stride(1) // unit, dx.stride(0) // unit, dx.stride(1) // unit,
            length // unit, channels, plan.stretch,
            WIDTH=width, BLOCK=plan.block, ROWS=plan.rows, GROUP=plan.group, UNIT=unit, SILU=silu,
            HAS_BIAS=bias is not None, HAS_INITIAL=initial is not None, HAS_SEQ=seq_idx is not None,
            num_warps=plan.warps, num_stages=1, **limit,
        )  # fmt: skip
    return dx, *conv_sums(partial, weight, bias), dinitial


def _grid(plan: ConvRowsPlan, x: Tensor) -> tuple[int, int, int]:
    batch, channels, length = x.shape
    return -(-channels // plan.rows), -(-length // (plan.group * (plan.block // plan.rows) * plan.stretch)), batch


def _unit(group: int, *tensors: Tensor) -> int:
    """The largest power of 2 up to group that divides the length and the strides of rows and batches."""
    together = group
    for x in tensors:
        together |= x.shape[2]
        for size, stride in zip(x.shape[:2], x.stride()):
            if size > 1:
                together |= stride
    return together & -together


def _strides(x: Tensor | None, dimensions: int) -> tuple[int, ...]:
    return (0,) * dimensions if x is None else x.stride()

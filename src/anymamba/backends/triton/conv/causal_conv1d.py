"""causal_conv1d_fn and causal_conv1d_update on Triton kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.transforms import first_derivative_only
from anymamba.backends.triton.conv.causal_conv1d_kernels import (
    causal_conv1d_backward_kernel,
    causal_conv1d_forward_kernel,
)
from anymamba.backends.triton.conv.causal_conv1d_rows import conv_rows_backward, conv_rows_forward, in_rows, rows_plan
from anymamba.backends.triton.conv.causal_conv1d_sums import conv_sums
from anymamba.backends.triton.conv.causal_conv1d_update_kernels import causal_conv1d_update_kernel
from anymamba.backends.triton.launch import is_nvidia, lanes, on_device, power_of_2, processors, runs_here
from anymamba.language import _

LARGEST_WIDTH = 8
"""The taps are unrolled and live in registers."""


MOST_STRETCHES = 2**16 - 1
"""A grid's second dimension has so many places."""


@dataclass(frozen=True)
class ConvPlan:
    """block: channels of a program. stretch: tokens that it walks. tile: tokens whose loads are in flight together."""

    block: int
    stretch: int
    tile: int
    warps: int


def conv_plan(batch: int, channels: int, length: int, device: torch.device, backward: bool = False) -> ConvPlan:
    """Four channels a lane. Backward keeps twice as much a step, hence half the steps; its blocks are of four warps, which leave fewer
    sums over the tokens to add up. Stretches short enough to fill the device, and such that their number fills it a whole number of
    times: 1,040 programs where 1,056 run in two goes were 8 % faster on an H200 than 1,280."""
    warps = max(min(4 if backward else 1, power_of_2(channels) // (4 * lanes(device))), 1)
    block = min(4 * warps * lanes(device), power_of_2(channels))
    beside = max(batch * -(-channels // block), 1)
    at_once = processors(device) * (16 // warps if backward else 28)  # 128 and 72 registers a lane
    least = -(-length // (160 if backward else 32))
    goes = -(-beside * least // at_once)
    stretch = max(-(-length // max(goes * at_once // beside, 1)), -(-length // MOST_STRETCHES), 1)
    return ConvPlan(block, max(-(-stretch // 16) * 16, 16), 4 if backward else 8, warps)


def supports(call: Call) -> tuple[bool, str]:
    """Every option; 1 to 8 taps."""
    ok, reason = runs_here(call)
    if ok and not 1 <= call.size("width") <= LARGEST_WIDTH:
        return False, _("has kernels for 1 to {largest} taps").format(largest=LARGEST_WIDTH)
    return ok, reason


def variant(call: Call) -> str:
    """The kernels walk along what lies side by side in memory; taps are unrolled."""
    beside = "steps" if "length_contiguous" in call.features else "channels"
    return f"{beside} side by side, {call.size('width', 4)} taps"


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """See anymamba.ops.causal_conv1d_fn. x: (batch, dim, length); copied unless the stride of channels or of time is 1. out is laid out
    like x."""
    given = x, weight, bias, initial_states, seq_idx
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given):
        out = _CausalConv1d.apply(*given, activation is not None)
    else:  # what autograd would ask costs as much as the launch
        out = _forward(*given, activation is not None)
    if not return_final_states:
        return out
    before = weight.shape[1] - 1
    length = x.shape[2]
    final_states = x[:, :, max(length - before, 0) :]
    if length < before:
        if initial_states is None:
            earlier = x.new_zeros(x.shape[0], x.shape[1], before - length)
        else:
            earlier = initial_states[:, :, length:].to(x.dtype)
        final_states = torch.cat([earlier, final_states], dim=2)
    if final_states_out is not None:
        return out, final_states_out.copy_(final_states)
    return out, final_states.clone()


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, seq_idx: Tensor | None, silu: bool
) -> Tensor:
    if x.numel() and in_rows(x):
        return conv_rows_forward(x, weight, bias, initial, seq_idx, silu, rows_plan(x))
    return conv_forward(x, weight, bias, initial, seq_idx, silu, conv_plan(x.shape[0], x.shape[1], x.shape[2], x.device))


class _CausalConv1d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        initial: Tensor | None,
        seq_idx: Tensor | None,
        silu: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, initial, seq_idx)
        ctx.silu = silu
        return _forward(x, weight, bias, initial, seq_idx, silu)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, initial, seq_idx = ctx.saved_tensors
        if x.numel() and in_rows(x):
            return *conv_rows_backward(dout, x, weight, bias, initial, seq_idx, ctx.silu, rows_plan(x, backward=True)), None, None
        plan = conv_plan(dout.shape[0], dout.shape[1], dout.shape[2], dout.device, backward=True)
        return *conv_backward(dout, x, weight, bias, initial, seq_idx, ctx.silu, plan), None, None


def conv_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, seq_idx: Tensor | None, silu: bool, plan: ConvPlan
) -> Tensor:
    """out (batch, dim, length) in the dtype and layout of x."""
    batch, channels, length = x.shape
    rows, bias = _channels_last(x), _contiguous(bias)
    out = torch.empty((batch, length, channels), dtype=x.dtype, device=x.device).transpose(1, 2)
    if x.numel():
        grid = (-(-channels // plan.block), -(-length // plan.stretch), batch)
        with on_device(x):
            causal_conv1d_forward_kernel[grid](
                rows, weight, bias, initial if initial is not None else x, seq_idx if seq_idx is not None else x, out,
                rows.stride(0), rows.stride(2), weight.stride(0), weight.stride(1), *_strides(initial, 3), *_strides(seq_idx, 2),
                out.stride(0), out.stride(2), length, channels, plan.stretch,
                WIDTH=weight.shape[1], BLOCK_D=plan.block, TILE=plan.tile, SILU=silu, HAS_BIAS=bias is not None,
                HAS_INITIAL=initial is not None, HAS_SEQ=seq_idx is not None, num_warps=plan.warps, num_stages=1,
            )  # fmt: skip
    return out if x.stride(1) == 1 or x.stride(2) != 1 else out.contiguous()


def conv_backward(
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial: Tensor | None,
    seq_idx: Tensor | None,
    silu: bool,
    plan: ConvPlan,
    dx: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of x, weight, bias and the initial states. dx: memory for x's, like x, channel stride 1."""
    batch, channels, length = x.shape
    width, device = weight.shape[1], x.device
    rows, dout, bias = _channels_last(x), _channels_last(dout), _contiguous(bias)
    if dx is None:
        dx = torch.empty((batch, length, channels), dtype=x.dtype, device=device).transpose(1, 2)
    if not x.numel():
        dinitial = None if initial is None else torch.zeros_like(initial)
        return dx, torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias), dinitial
    dinitial = None if initial is None else torch.empty((batch, width - 1, channels), dtype=initial.dtype, device=device)
    grid = (-(-channels // plan.block), -(-length // plan.stretch), batch)
    partial = torch.empty((batch * grid[1], width + (bias is not None), channels), dtype=torch.float32, device=device)
    # what waits in registers must leave room for four blocks of four warps. The assembler of NVIDIA is told how many there are, for left
    # to itself it takes fewer and spills, or takes too many. Rows that lanes cannot read four channels at a time need more
    together = channels | rows.stride(2) | dout.stride(2) | dx.stride(2)
    few = width <= 4 and (seq_idx is None or initial is None) and together % 16 == 0
    ahead = few and silu
    limit = {"maxnreg": 128 if few else 255} if is_nvidia(device) else {}
    tile = min(plan.tile, 2) if ahead and x.element_size() == 4 else plan.tile
    with on_device(x):
        causal_conv1d_backward_kernel[grid](
            rows, weight, bias, initial if initial is not None else x, seq_idx if seq_idx is not None else x,
            dout, dx, dinitial, partial,
            rows.stride(0), rows.stride(2), weight.stride(0), weight.stride(1), *_strides(initial, 3), *_strides(seq_idx, 2),
            dout.stride(0), dout.stride(2), dx.stride(0), dx.stride(2), length, channels, plan.stretch,
            WIDTH=width, BLOCK_D=plan.block, TILE=tile, AHEAD=ahead, SILU=silu, HAS_BIAS=bias is not None,
            HAS_INITIAL=initial is not None, HAS_SEQ=seq_idx is not None, num_warps=plan.warps, num_stages=1, **limit,
        )  # fmt: skip
    return dx, *conv_sums(partial, weight, bias), None if dinitial is None else dinitial.transpose(1, 2)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """See anymamba.ops.causal_conv1d_update. x: (batch, dim) or (batch, dim, steps); conv_state is changed in place."""
    new = x.unsqueeze(-1) if x.dim() == 2 else x
    batch, channels, steps = new.shape
    out = torch.empty_like(new)
    bias = _contiguous(bias)
    state_len = conv_state.shape[2]
    if out.numel():
        block = min(power_of_2(channels), 128)
        grid = (-(-channels // block), batch)
        with torch.no_grad(), on_device(x):
            causal_conv1d_update_kernel[grid](
                new, conv_state, weight, bias, cache_seqlens, conv_state_indices, out,
                *new.stride(), *conv_state.stride(), weight.stride(0), weight.stride(1), *out.stride(), channels, steps, state_len,
                WIDTH=weight.shape[1], BLOCK_D=block, SILU=activation is not None, HAS_BIAS=bias is not None,
                CIRCULAR=cache_seqlens is not None, HAS_ROWS=conv_state_indices is not None,
                KEPT=power_of_2(max(state_len, 1)), num_warps=4 if lanes(x.device) == 32 else 2, num_stages=1,
            )  # fmt: skip
    return out[:, :, 0] if x.dim() == 2 else out


def _channels_last(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.transpose(1, 2).contiguous().transpose(1, 2)


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _strides(x: Tensor | None, dimensions: int) -> tuple[int, ...]:
    return (0,) * dimensions if x is None else x.stride()

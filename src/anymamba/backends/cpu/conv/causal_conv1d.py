"""The causal depthwise convolution on the CPU, fused with bias and SiLU, and its one-token step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.cpu.conv import causal_conv1d_kernels as kernels
from anymamba.backends.cpu.conv import causal_conv1d_rows as rows
from anymamba.backends.cpu.conv import causal_conv1d_step as step
from anymamba.backends.cpu.jit.compile import Program
from anymamba.backends.cpu.jit.emit import dtype_name
from anymamba.backends.transforms import first_derivative_only
from anymamba.language import _

WIDEST = 32
"""Taps are unrolled; beyond this, code size and registers would cost more than the kernel saves."""

_TOGETHER = 8
"""Tokens computed together."""

_WIDEST_OF_ROWS, _SHORTEST_ROW = 8, 16
"""Where the length is contiguous: taps up to which, and tokens from which on, rows are read where they lie."""


def supports(call: Call) -> tuple[bool, str]:
    if call.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False, _("no kernels for {dtype}").format(dtype=call.dtype)
    if call.size("width") > WIDEST:
        return False, _("width {width} is over {widest}").format(width=call.size("width"), widest=WIDEST)
    if "mixed_dtype" in call.features:
        return False, _("states have another dtype than x")
    return True, _("compiled kernels")


def variant(call: Call) -> str:
    """The kernels walk along what lies side by side in memory."""
    return "steps side by side" if "length_contiguous" in call.features and _has_rows(call) else ""


def _has_rows(call: Call) -> bool:
    return call.op == "causal_conv1d_fn" and "seq_idx" not in call.features and call.size("width") <= _WIDEST_OF_ROWS


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
    """See anymamba.ops.causal_conv1d_fn. x (batch, dim, length): read where it lies if channels are contiguous, or the length with few taps
    and without seq_idx; else copied once."""
    channels_last = x.stride(1) == 1 or x.shape[1] == 1
    along = not channels_last and x.stride(2) == 1 and seq_idx is None and x.shape[2] >= _SHORTEST_ROW
    if along and weight.shape[1] <= _WIDEST_OF_ROWS:
        lines = x
        out = rows.convolve(x, weight, bias, initial_states, activation is not None)
    else:
        lines = x if channels_last else x.mT.contiguous().mT
        out = _Convolution.apply(lines, weight, bias, initial_states, seq_idx, activation is not None)
        out = out if channels_last else out.contiguous()
    if not return_final_states:
        return out
    history, length = weight.shape[1] - 1, x.shape[2]
    if length < history:
        before = x.new_zeros(*x.shape[:2], history) if initial_states is None else initial_states
        lines = torch.cat([before.mT, lines.mT], dim=1).mT
    final_states = lines[:, :, lines.shape[2] - history :]
    if final_states_out is None:
        return out, final_states.mT.clone(memory_format=torch.contiguous_format).mT
    return out, final_states_out.copy_(final_states)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """See anymamba.ops.causal_conv1d_update."""
    return step.update(x, conv_state, weight, bias, activation is not None, cache_seqlens, conv_state_indices)


@functools.cache
def _program(name: str, build: Callable[..., None], *options: Any) -> Program:
    return Program(name, build, *options)


def _arguments(x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, seq_idx: Tensor | None) -> dict[str, Any]:
    """Of both kernels. Taps are turned round: tap j is of the token j steps back."""
    batch, dim, length = x.shape
    width = weight.shape[1]
    if initial is None:
        before = x.new_zeros(batch, width - 1, dim)
    else:
        before = initial.mT.contiguous()
    return {
        "x": x, "x_batch": x.stride(0), "x_token": x.stride(2), "length": length, "dim": dim, "before": before,
        "taps": weight.detach().float().flip(1).mT.contiguous(),
        "bias": torch.zeros(dim) if bias is None else bias.detach().float().contiguous(),
        "seq_idx": None if seq_idx is None else seq_idx.contiguous(),
    }  # fmt: skip


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, seq_idx: Tensor | None, activation: bool
    ) -> Tensor:
        batch, dim, length = x.shape
        arguments = _arguments(x, weight, bias, initial, seq_idx)
        # channels contiguous, and no view: the caller may change a view made in here in place no more than its base
        out = x.new_empty_strided((batch, dim, length), (length * dim, 1, dim))
        options = dtype_name(x.dtype), weight.shape[1], activation, None if seq_idx is None else dtype_name(seq_idx.dtype)
        # at least four blocks a core and at most 64 tokens each: the result does not depend on it
        pieces = -(-length * batch // (4 * torch.get_num_threads()))
        block = max(_TOGETHER, min(64, -(-pieces // _TOGETHER) * _TOGETHER))
        blocks = -(-length // block)
        program = _program("causal_conv1d", kernels.forward, *options, _TOGETHER)
        program.run(batch * blocks, out=out, blocks=blocks, block=block, **arguments)
        ctx.activation = activation
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, weight, bias, initial, seq_idx)
        return out

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, initial, seq_idx = ctx.saved_tensors
        batch, dim, length = x.shape
        width = weight.shape[1]
        if dout.stride(1) != 1 and dim > 1:
            dout = dout.mT.contiguous().mT
        dx, dtaps = x.new_empty(batch, length, dim), torch.empty(batch, width + 1, dim)
        dbefore = None if initial is None else x.new_empty(batch, width - 1, dim)
        options = dtype_name(x.dtype), width, ctx.activation, None if seq_idx is None else dtype_name(seq_idx.dtype)
        # whole vectors, two blocks a core: the sums of a channel do not depend on it
        share = max(1, 2 * torch.get_num_threads() // batch)
        block = max(64, -(-dim // share // 64) * 64)
        blocks = -(-dim // block)
        program = _program("causal_conv1d_backward", kernels.backward, *options, initial is not None, _TOGETHER // 2)
        program.run(
            batch * blocks, blocks=blocks, block=block, dout=dout, dout_batch=dout.stride(0), dout_token=dout.stride(2), dx=dx,
            dtaps=dtaps, dbefore=dbefore, later=torch.empty(batch, width - 1, dim),
            **_arguments(x, weight, bias, initial, seq_idx),
        )  # fmt: skip
        sums = dtaps.sum(0) if batch > 1 else dtaps[0]
        dweight = sums[:width].flip(0).mT.to(weight.dtype)
        dbias = None if bias is None else sums[width].to(bias.dtype)
        return dx.mT, dweight, dbias, None if dbefore is None else dbefore.mT, None, None

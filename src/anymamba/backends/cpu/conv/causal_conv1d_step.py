"""The convolution of a few new tokens with its rolling state: lanes are channels, one task a sequence, any strides."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.cpu.jit.compile import Program
from anymamba.backends.cpu.jit.emit import Kernel, Value, dtype_name
from anymamba.backends.cpu.jit.memory import Pointer
from anymamba.backends.cpu.jit.values import I32
from anymamba.backends.cpu.jit.vecmath import silu

_ALONE = 2**15
"""Elements below which waking other cores costs more than they save."""


def update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: bool,
    cache_seqlens: Tensor | None,
    conv_state_indices: Tensor | None,
) -> Tensor:
    """x (batch, dim) or (batch, dim, steps); conv_state (rows, dim, state_len) changes in place."""
    many = x.dim() == 3
    out = torch.empty_like(x)
    x_strides, out_strides = x.stride(), out.stride()
    state_row, state_channel, state_column = conv_state.stride()
    weight_channel, weight_tap = weight.stride()
    if cache_seqlens is not None:
        cache_seqlens = cache_seqlens.contiguous()
    if conv_state_indices is not None:
        conv_state_indices = conv_state_indices.contiguous()
    program = _program(
        x.dtype, weight.dtype, None if bias is None else bias.dtype, weight.shape[1], activation,
        None if cache_seqlens is None else cache_seqlens.dtype,
        None if conv_state_indices is None else conv_state_indices.dtype,
        x_strides[1] == 1 and out_strides[1] == 1, state_channel == 1,
    )  # fmt: skip
    slots = [
        x.shape[1], x.shape[2] if many else 1, conv_state.shape[2],
        x_strides[0], x_strides[1], x_strides[2] if many else 0,
        out_strides[0], out_strides[1], out_strides[2] if many else 0,
        state_row, state_channel, state_column, weight_channel, weight_tap,
        x.data_ptr(), out.data_ptr(), weight.data_ptr(), conv_state.data_ptr(),
    ]  # fmt: skip
    if bias is not None:
        slots += (bias.data_ptr(), bias.stride(0))
    if cache_seqlens is not None:
        slots.append(cache_seqlens.data_ptr())
    if conv_state_indices is not None:
        slots.append(conv_state_indices.data_ptr())
    # slots are in the order in which _update names them: a dictionary would take longer than a token's arithmetic
    program.launch(x.shape[0], 1 if x.numel() < _ALONE else torch.get_num_threads(), slots)
    return out


@functools.cache
def _program(*options: Any) -> Program:
    """dtypes arrive as torch has them: their names would cost more than the look-up."""
    return Program("causal_conv1d_update", _update, *(dtype_name(o) if isinstance(o, torch.dtype) else o for o in options))


class _Channels:
    """One vector of channels, ``channel`` elements apart; with lanes 1, a single channel in every lane."""

    def __init__(self, k: Kernel, pointer: Pointer, channel: Value, adjacent: bool, first: Value, lanes: int) -> None:
        self.k, self.adjacent, self.lanes = k, adjacent, lanes
        self.channel, self.pointer = channel, pointer.at(first * channel)

    def load(self, offset: Any) -> Value:
        if self.lanes == 1:
            return self.pointer.broadcast(offset)
        if self.adjacent:
            return self.pointer.load(offset)
        k = self.k
        vector = k.vector(0.0).ir
        for lane in range(self.lanes):
            element = self.pointer.scalar(self.channel * lane + offset).ir
            vector = k.builder.insert_element(vector, element, I32(lane))
        return k.wrap(vector)

    def store(self, offset: Any, value: Value) -> None:
        if self.adjacent and self.lanes > 1:
            self.pointer.store(offset, value)
            return
        for lane in range(self.lanes):
            element = self.k.wrap(self.k.builder.extract_element(value.ir, I32(lane)))
            self.pointer.store_scalar(self.channel * lane + offset, element)


def _update(
    k: Kernel, dtype: str, weight_dtype: str, bias_dtype: str | None, width: int, activation: bool, seen_dtype: str | None,
    rows_dtype: str | None, adjacent: bool, state_adjacent: bool,
) -> None:  # fmt: skip
    dim, steps, state_len = k.size("dim"), k.size("steps"), k.size("state_len")
    x_batch, x_channel, x_step = (k.size(name) for name in ("x_batch", "x_channel", "x_step"))
    out_batch, out_channel, out_step = (k.size(name) for name in ("out_batch", "out_channel", "out_step"))
    state_row, state_channel, state_column = (k.size(name) for name in ("state_row", "state_channel", "state_column"))
    weight_channel, weight_tap = k.size("weight_channel"), k.size("weight_tap")
    x, out = k.pointer("x", dtype).at(k.task * x_batch), k.pointer("out", dtype).at(k.task * out_batch)
    weight, all_states = k.pointer("weight", weight_dtype), k.pointer("state", dtype)
    bias = None if bias_dtype is None else (k.pointer("bias", bias_dtype), k.size("bias_channel"))
    seen = None if seen_dtype is None else k.pointer("seen", seen_dtype).scalar(k.task)
    row = k.task if rows_dtype is None else k.pointer("rows", rows_dtype).scalar(k.task)

    def channels(c: Value, lanes: int) -> None:
        inputs = _Channels(k, x, x_channel, adjacent, c, lanes)
        outputs = _Channels(k, out, out_channel, adjacent, c, lanes)
        states = _Channels(k, all_states.at(row * state_row), state_channel, state_adjacent, c, lanes)
        weights = _Channels(k, weight, weight_channel, False, c, lanes)
        taps = [weights.load(weight_tap * j) for j in range(width)]
        shift = k.vector(0.0) if bias is None else _Channels(k, bias[0], bias[1], False, c, lanes).load(0)

        def column(back: int) -> Value:
            """Of the state: where the input ``back`` tokens before the first new one lies."""
            return state_len - back if seen is None else ((seen - back) % state_len + state_len) % state_len

        window = [k.variable(states.load(column(back) * state_column)) for back in range(width - 1, 0, -1)]
        with k.loop(0, steps) as s:
            new = inputs.load(s * x_step)
            value = shift
            for tap, earlier in zip(taps, window):
                value = value + tap * earlier.value
            value = value + taps[-1] * new
            outputs.store(s * out_step, silu(value) if activation else value)
            for i, earlier in enumerate(window):
                earlier.set(window[i + 1].value if i + 1 < len(window) else new)
            if seen is not None:
                with k.if_(state_len > 0):
                    states.store((seen + s) % state_len * state_column, new)
        if seen is None:
            old_taps = k.maximum(state_len - steps, 0)
            with k.loop(0, old_taps) as place:
                states.store(place * state_column, states.load((place + steps) * state_column))
            with k.loop(old_taps, state_len) as place:
                states.store(place * state_column, inputs.load((place + steps - state_len) * x_step))

    def padding(c: Value, lanes: int) -> None:
        outputs = _Channels(k, out, out_channel, adjacent, c, lanes)
        with k.loop(0, steps) as s:
            outputs.store(s * out_step, k.vector(0.0))

    def over(body: Any) -> None:
        whole = dim / k.width * k.width
        with k.loop(0, whole, k.width) as c:
            body(c, k.width)
        with k.loop(whole, dim) as c:
            body(c, 1)

    with k.if_else(row < 0) as (is_padding, is_real):
        with is_padding:
            over(padding)
        with is_real:
            over(channels)

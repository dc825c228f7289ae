"""Causal depthwise convolution over tokens, and its one-token step."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.dispatch import choose
from anymamba.backends.opspec import Arguments, Bench, Build, OpSpec, Random, on_cuda, register
from anymamba.errors import ArgumentError
from anymamba.language import _
from anymamba.ops.calls import checks, compiled
from anymamba.ops.calls.inputs import BORDERS, chosen, sequence
from anymamba.ops.calls.inputs import documents as packed
from anymamba.ops.calls.remembered import keep, remembered
from anymamba.reference import causal_conv1d as exact

MANY = 2**24
"""Inputs beside whose kernels the cost of a launch is nothing."""


def _sequence_shapes(x: Tensor, weight: Tensor, return_final_states: bool, **_: Any) -> list[Tensor]:
    states = [x.new_empty(x.shape[0], x.shape[1], weight.shape[1] - 1)]
    return [compiled.same_layout(x), *(states if return_final_states else [])]


@compiled.as_node(_sequence_shapes)
def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
    *,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """out[t] = act(bias + sum over j < width of weight[width - 1 - j] * x[t - j]). Source: ``causal_conv1d_fn`` of causal_conv1d 1.7.0.

    x: (batch, dim, length), fp32, bf16, fp16 or fp64, any strides (channels or time contiguous is fastest). weight: (dim, width), any width
    of at least 1; bias: (dim,); their dtypes may differ from that of x. activation: None, "silu" or "swish".
    seq_idx: (batch, length) integers, the document of each token: taps reach only tokens of the same document; negative is
    padding, output 0. initial_states: (batch, dim, width - 1), the inputs before token 0, of the document seq_idx[:, 0].
    final_states_out: (batch, dim, width - 1), filled with the final states and returned as them.

    Returns out, shaped and typed like x, or (out, final_states (batch, dim, width - 1)): the last width - 1 inputs.
    Differentiable in x, weight, bias and initial_states. backend: the name of a backend; None: the best one.

    Raises ArgumentError (shapes, seq_idx together with return_final_states), ArgumentTypeError (dtypes, devices),
    UnsupportedError (activation), BackendError (backend cannot serve this call).
    """
    op = "causal_conv1d_fn"
    final = bool(return_final_states)
    key, function = remembered(op, (x, weight, bias, seq_idx, initial_states, final_states_out), (final, activation), backend)
    if function:
        return function(x, weight, bias, seq_idx, initial_states, final, final_states_out, activation)
    options = {"bias": bias, "initial_states": initial_states, "final_states_out": final_states_out}
    grad = checks.tensors(op, {"x": x, "weight": weight}, options, {"seq_idx": seq_idx})
    checks.activation(op, activation)
    checks.shape(op, "x", x, "(batch, dim, length)", (-1, -1, -1))
    batch, dim, length = x.shape
    checks.shape(op, "weight", weight, "(dim, width)", (dim, -1))
    width = weight.shape[1]
    checks.value(op, "width", width, width >= 1, ">= 1")
    checks.shape(op, "bias", bias, "(dim,)", (dim,))
    checks.shape(op, "seq_idx", seq_idx, "(batch, length)", (batch, length))
    checks.shape(op, "initial_states", initial_states, "(batch, dim, width - 1)", (batch, dim, width - 1))
    checks.shape(op, "final_states_out", final_states_out, "(batch, dim, width - 1)", (batch, dim, width - 1))
    if seq_idx is not None and return_final_states:
        raise ArgumentError(
            "value",
            _("{op}: return_final_states cannot be combined with seq_idx of shape {shape}").format(
                op=op, shape=tuple(seq_idx.shape)
            ),
            fix=_("use causal_conv1d_varlen_states for packed sequences"),
        )
    arguments = (
        x, weight, bias, seq_idx, initial_states, bool(return_final_states), final_states_out, activation,
    )  # fmt: skip
    if not x.numel():
        return exact.causal_conv1d_fn(*arguments)
    if torch.compiler.is_compiling():
        result = compiled.run(op, (*arguments[:6], None, activation), backend)
        return result if final_states_out is None else (result[0], final_states_out.copy_(result[1]))
    features = checks.features(
        bias=bias, seq_idx=seq_idx, initial_states=initial_states, return_final_states=bool(return_final_states),
        activation=activation, mixed_dtype=initial_states is not None and initial_states.dtype != x.dtype,
        length_contiguous=x.stride(2) == 1 and x.stride(1) != 1,
        many_channels_last=x.stride(1) == 1 and x.numel() >= MANY,
        float64_weights=weight.dtype == torch.float64 or (bias is not None and bias.dtype == torch.float64),
    )  # fmt: skip
    sizes = ("batch", batch), ("dim", dim), ("length", length), ("width", width)
    call = Call(op, x.device, x.dtype, grad, features, sizes)
    choice = choose(call, backend)
    keep(key, call, choice, arguments)
    return choice.function(*arguments)


@compiled.as_node(lambda x, **_: [compiled.contiguous(x)], changes="conv_state")
def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """The next token, or the next few, of causal_conv1d_fn; conv_state is updated in place. Source: ``causal_conv1d_update``.

    x: (batch, dim) or (batch, dim, steps), floating. conv_state: (rows, dim, state_len), state_len >= width - 1, rows = batch unless
    conv_state_indices is given. weight: (dim, width); bias: (dim,); activation: None, "silu" or "swish".
    cache_seqlens: (batch,) integers, tokens seen so far: conv_state is then a circular buffer in which token k lies in column
    k % state_len; None: it is the last state_len inputs, oldest first. conv_state_indices: (batch,) integers, the row of each
    sequence; negative is padding: output 0, no state is touched.

    Returns out, shaped and typed like x. No gradient passes.
    Raises ArgumentError, ArgumentTypeError, UnsupportedError (activation), BackendError.
    """
    op = "causal_conv1d_update"
    checks.tensors(
        op,
        {"x": x, "conv_state": conv_state, "weight": weight},
        {"bias": bias},
        {"cache_seqlens": cache_seqlens, "conv_state_indices": conv_state_indices},
    )
    checks.activation(op, activation)
    if x.dim() not in (2, 3):
        raise checks.wrong_shape(op, "x", x, "(batch, dim) / (batch, dim, steps)")
    batch, dim = x.shape[:2]
    checks.shape(op, "weight", weight, "(dim, width)", (dim, -1))
    width = weight.shape[1]
    checks.value(op, "width", width, width >= 1, ">= 1")
    checks.shape(op, "bias", bias, "(dim,)", (dim,))
    rows = batch if conv_state_indices is None else -1
    checks.shape(op, "conv_state", conv_state, "(rows, dim, state_len)", (rows, dim, -1))
    if conv_state.shape[2] < width - 1:
        raise checks.wrong_shape(op, "conv_state", conv_state, f"(rows, dim, state_len), state_len >= {width - 1}")
    checks.shape(op, "cache_seqlens", cache_seqlens, "(batch,)", (batch,))
    if conv_state_indices is not None:
        checks.shape(op, "conv_state_indices", conv_state_indices, "(batch,)", (batch,))
        checks.indices_below(op, "conv_state_indices", conv_state_indices, conv_state.shape[0], "conv_state.shape[0]")
    if not x.numel():
        return torch.empty_like(x)
    features = checks.features(
        bias=bias, activation=activation, cache_seqlens=cache_seqlens, conv_state_indices=conv_state_indices,
        mixed_dtype=conv_state.dtype != x.dtype,
    )  # fmt: skip
    arguments = (x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices)
    if torch.compiler.is_compiling():
        return compiled.run(op, arguments, backend)
    function = choose(Call(op, x.device, x.dtype, False, features, (("width", width),)), backend).function
    if torch.is_grad_enabled():
        with torch.no_grad():
            return function(*arguments)
    return function(*arguments)


def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """The convolution's state after each of several packed sequences: their last inputs. Source: ``causal_conv1d_varlen_states``.

    x: (tokens, dim), floating. cu_seqlens: (sequences + 1,) integers, the borders of the sequences. state_len: columns to keep.
    Returns (sequences, dim, state_len), dtype of x, right aligned, zeros where a sequence is shorter. No gradient passes.
    Raises ArgumentError, ArgumentTypeError.
    """
    op = "causal_conv1d_varlen_states"
    checks.tensors(op, {"x": x}, {}, {"cu_seqlens": cu_seqlens})
    checks.shape(op, "x", x, "(tokens, dim)", (-1, -1))
    checks.borders(op, "cu_seqlens", cu_seqlens, x.shape[0])
    checks.value(op, "state_len", state_len, state_len >= 0, ">= 0")
    if not x.numel():
        return x.new_zeros(cu_seqlens.shape[0] - 1, x.shape[1], state_len)
    starts, ends = cu_seqlens[:-1, None], cu_seqlens[1:, None]
    source = ends + torch.arange(-state_len, 0, device=x.device)
    states = x.detach()[source.clamp(min=0)].masked_fill((source < starts)[:, :, None], 0)
    return states.transpose(1, 2)


def build(
    length: int = 37, batch: int = 2, dim: int = 20, width: int = 4, layout: str = "channels", size: float = 1.0, tokens: int = 0,
    documents: Sequence[int] | None = None, without: tuple[str, ...] = ("initial_states",), fresh: bool = False,
    activation: str | None = "silu", **options: Any,
) -> Build:  # fmt: skip
    """tokens: of each document of a packed row, 0: not packed; documents: seq_idx itself. layout: of x, see inputs.sequence.
    size: factor on x. fresh: a weight as a model has it before training."""

    def inputs(random: Random) -> Arguments:
        weight = random(dim, width)
        tensors = {
            "x": sequence(random, batch, length, dim, layout=layout) * size,
            "weight": weight / width**0.5 if fresh else weight,
            "bias": random(dim),
            "initial_states": random(batch, width - 1, dim).transpose(1, 2),
        }
        if tokens:
            tensors["seq_idx"] = packed(batch, length, tokens, 2)
        if documents is not None:
            tensors["seq_idx"] = torch.tensor(documents, dtype=torch.int32).expand(batch, -1)
        return {**chosen(tensors, without), "activation": activation, **options}

    return inputs


def build_step(
    batch: int = 2, dim: int = 20, width: int = 4, steps: int = 0, state_len: int = 0, activation: str | None = "silu", bias: bool = True,
    seen: Sequence[int] | None = None, rows: int = 0, indices: Sequence[int] | None = None,
) -> Build:  # fmt: skip
    """steps: tokens of a call, 0: one without that dimension. state_len: inputs that the state holds, 0: width. seen: cache_seqlens.
    rows: of the state, 0: batch; indices: conv_state_indices."""

    def inputs(random: Random) -> Arguments:
        arguments: Arguments = {
            "x": random(batch, dim, steps) if steps else random(batch, dim),
            "conv_state": random(rows or batch, dim, state_len or width),
            "weight": random(dim, width),
            "bias": random(dim),
        }
        if not bias:
            del arguments["bias"]
        if seen is not None:
            arguments["cache_seqlens"] = torch.tensor(seen, dtype=torch.int32)
        if indices is not None:
            arguments["conv_state_indices"] = torch.tensor(indices, dtype=torch.int32)
        return {**arguments, "activation": activation}

    return inputs


def probe(call: Call) -> Build:
    """As many taps, and the same side by side in memory."""
    return build(width=call.size("width", 4), layout="length" if "length_contiguous" in call.features else "channels")


_with_states = functools.partial(build, layout="wide", without=(), return_final_states=True)

SPEC = register(
    OpSpec(
        causal_conv1d_fn,
        build,
        differentiable=("x", "weight", "bias", "initial_states"),
        probe=probe,
        published=({}, {"layout": "length"}, {"width": 3}),
        cases={
            "chunk borders": build(BORDERS, layout="wide"),
            "width 3 with states": _with_states(67, width=3),
            "width 2, no activation": build(67, width=2, activation=None, layout="length"),
            "width 4 with states": _with_states(35, 3, 13, without=("bias",)),
            "large inputs": build(67, size=1e4, layout="wide"),
            "length contiguous": build(67, dim=33, layout="length"),
            "packed documents": build(67, tokens=9, layout="wide"),
            "2 tokens with states": _with_states(2),
            "1 token": build(1, layout="wide"),
        },
        bench=tuple(
            Bench(name, {"batch": batch, "length": length, "dim": dim, "layout": layout, "fresh": True}, **more)
            for name, batch, length, dim, layout, more in (
                ("B1-L2048-D1536-W4", 1, 2048, 1536, "channels", {}),
                ("B1-L512-D1536-W4", 1, 512, 1536, "channels", {"dtypes": ("float32",), "quick": True}),
                ("B8-L2048-D5120-W4-length-contiguous", 8, 2048, 5120, "length", on_cuda((0.122, 0.280), quick=True)),
                ("B8-L2048-D5120-W4-channels-contiguous", 8, 2048, 5120, "channels", on_cuda((0.134, 0.334), (1.0, 1.3), quick=True)),
            )
        ),
    )
)

STEP_SPEC = register(
    OpSpec(
        causal_conv1d_update,
        build_step,
        inplace=("conv_state",),
        probe=lambda call: build_step(width=call.size("width", 4)),
        forward_cases={
            "batch 1, width 3": build_step(1, 13, 3),
            "no activation, no bias": build_step(3, activation=None, bias=False),
            "width 2": build_step(width=2),
            "3 tokens": build_step(steps=3),
            "longer state": build_step(state_len=7),
            "circular state": build_step(state_len=6, seen=(2, 5)),
            "states by index": build_step(rows=6, indices=(4, 1)),
            "a wide layer": build_step(1, 1030),
        },
        bench=tuple(
            Bench(f"B{batch}-D{dim}-W4", {"batch": batch, "dim": dim, "state_len": 3}, **more)
            for batch, dim, more in ((1, 1536, {"quick": True}), (1, 5120, on_cuda()), (64, 5120, on_cuda()))
        ),
    )
)

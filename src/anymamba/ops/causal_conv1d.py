"""Causal depthwise convolution over tokens, and its one-token step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.dispatch import choose
from anymamba.errors import ArgumentError
from anymamba.language import say
from anymamba.ops import checks, compiled
from anymamba.reference import causal_conv1d as exact


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
    given = {"bias": bias, "initial_states": initial_states, "final_states_out": final_states_out}
    grad = checks.tensors(op, {"x": x, "weight": weight}, given, {"seq_idx": seq_idx})
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
            say(
                f"{op}: return_final_states cannot be combined with seq_idx of shape {tuple(seq_idx.shape)}",
                f"{op}：return_final_states 不能与形状为 {tuple(seq_idx.shape)} 的 seq_idx 同时使用",
            ),
            fix=say("use causal_conv1d_varlen_states for packed sequences", "对打包序列请使用 causal_conv1d_varlen_states"),
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
    )  # fmt: skip
    call = Call(op, x.device, x.dtype, grad, features, (("width", width),))
    return choose(call, backend).function(*arguments)


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

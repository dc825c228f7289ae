"""The names of causal_conv1d's compiled module, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymamba import ops

__anymamba__ = True
__version__ = "1.7.0+anymamba"


def causal_conv1d_fwd(
    x: Tensor, weight: Tensor, bias: Tensor | None, seq_idx: Tensor | None, initial_states: Tensor | None, *rest: Any
) -> Tensor | None:
    """With (out, final_states_out, silu) after the five: writes to out. With (final_states_out, silu), the form before 1.5: returns it."""
    out, final_states_out, silu = (None, *rest) if len(rest) == 2 else rest
    with torch.no_grad():
        results = ops.causal_conv1d_fn(
            x, weight, bias, seq_idx, initial_states, final_states_out is not None, final_states_out, "silu" if silu else None
        )
    result = results if isinstance(results, Tensor) else results[0]
    if out is None:
        return result
    out.copy_(result)
    return None


def causal_conv1d_bwd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dout: Tensor,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    dfinal_states: Tensor | None,
    dx: Tensor,
    dweight: Tensor,
    dbias: Tensor | None,
    dinitial_states: Tensor | None,
    silu_activation: bool,
) -> None:
    """The gradients of causal_conv1d_fwd, written to dx, dweight, dbias and dinitial_states."""
    tensors = [tensor for tensor in (x, weight, bias, initial_states) if tensor is not None]
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        following = iter(leaves)
        arguments = [None if tensor is None else next(following) for tensor in (x, weight, bias, initial_states)]
        assert arguments[0] is not None and arguments[1] is not None
        results = ops.causal_conv1d_fn(
            arguments[0], arguments[1], arguments[2], seq_idx, arguments[3], dfinal_states is not None,
            activation="silu" if silu_activation else None,
        )  # fmt: skip
        outputs = (results,) if isinstance(results, Tensor) else results
        grads = iter(torch.autograd.grad(outputs, leaves, (dout,) if dfinal_states is None else (dout, dfinal_states)))
    places = ((x, dx), (weight, dweight), (bias, dbias), (initial_states, dinitial_states))
    for tensor, place in places:
        if tensor is not None:
            gradient = next(grads)
            if place is not None:
                place.copy_(gradient)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    silu_activation: bool,
    cache_seqlens: Tensor | None,
    conv_state_indices: Tensor | None,
) -> None:
    """The step of one token, written to out; conv_state is changed in place."""
    activation = "silu" if silu_activation else None
    with torch.no_grad():
        out.copy_(ops.causal_conv1d_update(x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices))

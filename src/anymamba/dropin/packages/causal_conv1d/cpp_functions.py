"""The convolution below its autograd node, as mamba_ssm and others call it."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba import ops


def causal_conv1d_fwd_function(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    final_states_out: Tensor | None,
    silu_activation: bool,
) -> Tensor:
    """x: (batch, dim, length). Returns the output; final_states_out (batch, dim, width - 1) is filled where it is given."""
    with torch.no_grad():
        activation = "silu" if silu_activation else None
        if final_states_out is None:
            out = ops.causal_conv1d_fn(x, weight, bias, seq_idx, initial_states, activation=activation)
        else:
            out = ops.causal_conv1d_fn(x, weight, bias, seq_idx, initial_states, True, final_states_out, activation)[0]
        assert isinstance(out, Tensor)
        return out


def causal_conv1d_bwd_function(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dout: Tensor,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    dfinal_states: Tensor | None,
    dx: Tensor | None,
    return_dinitial_states: bool,
    silu_activation: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The gradients of x, weight, bias and (if asked for) initial_states from dout, shaped like x, and dfinal_states; dx (None: a new
    tensor) is filled."""
    with torch.enable_grad():
        leaves = [
            None if tensor is None else tensor.detach().requires_grad_() for tensor in (x, weight, bias, initial_states)
        ]
        assert leaves[0] is not None and leaves[1] is not None
        results = ops.causal_conv1d_fn(
            leaves[0], leaves[1], leaves[2], seq_idx, leaves[3], return_final_states=dfinal_states is not None,
            activation="silu" if silu_activation else None,
        )  # fmt: skip
        outputs = (results,) if isinstance(results, Tensor) else results
        gradients = (dout,) if dfinal_states is None else (dout, dfinal_states)
        wanted = [tensor for tensor in leaves if tensor is not None]
        grads = list(torch.autograd.grad(outputs, wanted, gradients))
    dgiven = [None if tensor is None else grads.pop(0) for tensor in leaves]
    made_dx, dweight, dbias, dinitial = dgiven
    assert made_dx is not None and dweight is not None
    if dx is not None:
        made_dx = dx.copy_(made_dx)
    if return_dinitial_states and dinitial is None:
        dinitial = x.new_zeros(x.shape[0], x.shape[1], weight.shape[1] - 1)
    return made_dx, dweight, dbias, dinitial if return_dinitial_states else None


def causal_conv1d_update_function(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu_activation: bool,
    cache_seqlens: Tensor | None,
    conv_state_indices: Tensor | None,
) -> Tensor:
    """One step or several: x (batch, dim, steps); conv_state (rows, dim, state_len) is changed in place."""
    activation = "silu" if silu_activation else None
    with torch.no_grad():
        return ops.causal_conv1d_update(x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices)

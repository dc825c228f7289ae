"""Causal depthwise convolution: out[t] = bias + sum over j < width of weight[width - 1 - j] * x[t - j], then silu.

Semantics of causal_conv1d 1.7.0 (``causal_conv1d_interface.py``, ``causal_conv1d_varlen.py``), without its limits on width and layout.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.reference import supports as supports
from anymamba.reference.arithmetic import activate, working_dtype


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
    """x (batch, dim, length), weight (dim, width), bias (dim,), seq_idx (batch, length), initial_states (batch, dim, width - 1).

    A tap counts where seq_idx of its token equals that of the output's token; a token with seq_idx < 0 is padding: output 0.
    initial_states are the inputs before token 0 and belong to the document seq_idx[:, 0].
    Returns out (batch, dim, length); with return_final_states also the last width - 1 inputs (batch, dim, width - 1).
    """
    dtype = working_dtype(x, weight, bias, initial_states)
    batch, dim, length = x.shape
    width = weight.shape[1]
    before = x.new_zeros(batch, dim, width - 1) if initial_states is None else initial_states
    inputs = torch.cat([before.to(dtype), x.to(dtype)], dim=2)
    taps, shift = weight.to(dtype), None if bias is None else bias.to(dtype)
    outputs = [activate(_one_output(inputs, t, taps, shift, seq_idx), activation) for t in range(length)]
    out = (torch.stack(outputs, dim=2) if outputs else inputs[:, :, :0]).to(x.dtype)
    if seq_idx is not None:
        out = out.masked_fill((seq_idx < 0)[:, None, :], 0)
    if not return_final_states:
        return out
    final_states = inputs[:, :, length:].to(x.dtype)
    if final_states_out is not None:
        final_states = final_states_out.copy_(final_states)
    return out, final_states


def _one_output(inputs: Tensor, t: int, weight: Tensor, bias: Tensor | None, seq_idx: Tensor | None) -> Tensor:
    """(batch, dim) before the activation. Column t + width - 1 of inputs is token t."""
    width = weight.shape[1]
    total = torch.zeros_like(inputs[:, :, 0]) if bias is None else bias.expand(inputs.shape[:2])
    for tap in range(width):
        product = weight[:, tap] * inputs[:, :, t + tap]
        if seq_idx is not None:
            source = max(t + tap - (width - 1), 0)  # what lies before token 0 belongs to its document
            product = torch.where((seq_idx[:, source] == seq_idx[:, t])[:, None], product, 0)
        total = total + product
    return total


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """x (batch, dim) or (batch, dim, steps), conv_state (rows, dim, state_len) with state_len >= width - 1, changed in place.

    cache_seqlens None: the state is the last state_len inputs, oldest first. cache_seqlens (batch,): tokens seen so far; the state
    is a circular buffer and token number k lies in column k % state_len. conv_state_indices (batch,): the row of each sequence;
    a negative one is padding: output 0, no state is touched.
    """
    steps = x[:, :, None] if x.dim() == 2 else x
    dtype = working_dtype(x, weight, bias, conv_state)
    rows = []
    width, state_len = weight.shape[1], conv_state.shape[2]
    with torch.no_grad():
        for b in range(steps.shape[0]):
            row = b if conv_state_indices is None else int(conv_state_indices[b])
            if row < 0:
                rows.append(torch.zeros_like(steps[b]))
                continue
            outputs = []
            for s in range(steps.shape[2]):
                if cache_seqlens is None:
                    earlier = conv_state[row, :, state_len - (width - 1) :]
                else:
                    now = int(cache_seqlens[b]) + s
                    earlier = conv_state[row][:, [(now - back) % state_len for back in range(width - 1, 0, -1)]]
                window = torch.cat([earlier.to(dtype), steps[b, :, s, None].to(dtype)], dim=1)
                total = (window * weight.to(dtype)).sum(dim=1) + (0 if bias is None else bias.to(dtype))
                outputs.append(activate(total, activation).to(x.dtype))
                if cache_seqlens is None:
                    conv_state[row] = torch.cat([conv_state[row], steps[b, :, s, None]], dim=1)[:, 1:]
                elif state_len:
                    conv_state[row, :, now % state_len] = steps[b, :, s].to(conv_state.dtype)
            rows.append(torch.stack(outputs, dim=1) if outputs else torch.zeros_like(steps[b]))
    out = torch.stack(rows) if rows else torch.zeros_like(steps)
    return out[:, :, 0] if x.dim() == 2 else out


def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """x (tokens, dim), cu_seqlens (sequences + 1,). Returns (sequences, dim, state_len): the last inputs of each sequence, right
    aligned, zeros before a sequence that is shorter."""
    borders = cu_seqlens.tolist()
    states = x.new_zeros(len(borders) - 1, x.shape[1], state_len)
    for i, (start, end) in enumerate(zip(borders[:-1], borders[1:])):
        count = min(end - start, state_len)
        states[i, :, state_len - count :] = x[end - count : end].T
    return states

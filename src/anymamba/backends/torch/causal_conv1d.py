"""Causal depthwise convolution as a sum of shifted inputs: for a few taps faster than a convolution library, and in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.backends.torch import supports as supports
from anymamba.backends.torch.precision import full_precision, wide_dtype


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
    """See anymamba.ops.causal_conv1d_fn. x: (batch, channels, length); the output keeps its memory layout."""
    width = weight.shape[1]
    with full_precision(x.device):
        padded = _with_history(x, initial_states, width - 1)
        wide = padded.to(wide_dtype(x, weight, bias, initial_states))
        out = _taps(wide, weight.to(wide.dtype), None if bias is None else bias.to(wide.dtype), seq_idx)
        if activation is not None:
            out = F.silu(out)
        if seq_idx is not None:
            out = out.masked_fill(seq_idx.unsqueeze(1) < 0, 0)
        out = out.to(x.dtype)
    if not return_final_states:
        return out
    final_states = padded[..., padded.shape[-1] - (width - 1) :]
    if final_states_out is None:
        return out, final_states.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)
    # copy_ is differentiable, so a gradient of the caller's buffer reaches x
    return out, final_states_out.copy_(final_states)


def _with_history(x: Tensor, initial_states: Tensor | None, history: int) -> Tensor:
    """(batch, channels, history + length): the inputs before the first step, or zeros, and x; channels last where x is."""
    batch, channels, _ = x.shape
    if initial_states is None:
        initial_states = x.new_zeros(batch, channels, history)
    if x.stride(1) == 1:
        return torch.cat([initial_states.to(x.dtype).transpose(1, 2), x.transpose(1, 2)], dim=1).transpose(1, 2)
    return torch.cat([initial_states.to(x.dtype), x], dim=2)


def _taps(padded: Tensor, weight: Tensor, bias: Tensor | None, seq_idx: Tensor | None) -> Tensor:
    """Sum over taps: (batch, channels, length). With seq_idx a tap counts only where it reaches the same sequence."""
    width = weight.shape[1]
    length = padded.shape[2] - (width - 1)
    if seq_idx is not None and length:
        # what came before the first step belongs to the sequence of the first step
        seq_idx = torch.cat([seq_idx[:, :1].repeat(1, width - 1), seq_idx], dim=1).unsqueeze(1)
    out = None if bias is None else bias[:, None]
    for tap in range(width):
        shifted = padded[:, :, tap : tap + length]
        if seq_idx is not None and length and tap < width - 1:
            same = seq_idx[:, :, tap : tap + length] == seq_idx[:, :, width - 1 :]
            shifted = torch.where(same, shifted, shifted.new_zeros(()))
        column = weight[:, tap, None]
        out = shifted * column if out is None else torch.addcmul(out, shifted, column)
    assert out is not None
    return out


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """See anymamba.ops.causal_conv1d_update. x: (batch, channels) or (batch, channels, steps); conv_state:
    (rows, channels, state length) is updated in place."""
    wide = wide_dtype(x, conv_state, weight, bias)
    inputs = (x.unsqueeze(2) if x.dim() == 2 else x).to(wide)
    with torch.no_grad(), full_precision(x.device):
        real = rows = None
        state = conv_state.to(wide)
        if conv_state_indices is not None:
            # a padding entry works on a copy of row 0, which is not written back
            real, rows = conv_state_indices >= 0, conv_state_indices.clamp(min=0).long()
            state = conv_state[rows].to(wide)
        if cache_seqlens is None:
            joined = torch.cat([state, inputs], dim=2)
            history = joined[:, :, state.shape[2] - (weight.shape[1] - 1) :]
            state_after = joined[:, :, inputs.shape[2] :]
        else:
            history, state_after = _circular(inputs, state, cache_seqlens, weight.shape[1])
        out = _taps(history, weight.to(wide), None if bias is None else bias.to(wide), None)
        if activation is not None:
            out = F.silu(out)
        out = out.to(x.dtype)
        if real is None or rows is None:
            conv_state.copy_(state_after)
        else:
            conv_state[rows[real]] = state_after[real].to(conv_state.dtype)
            out = out.masked_fill(~real[:, None, None], 0)
    return out.squeeze(2) if x.dim() == 2 else out


def _circular(inputs: Tensor, state: Tensor, cache_seqlens: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The buffer is a ring: step s of a row lies at s modulo its length. Returns (history and inputs, the ring after)."""
    channels, state_len = state.shape[1:]
    start = cache_seqlens.long()[:, None]
    past = torch.arange(-(width - 1), 0, device=inputs.device)
    read = ((start + past) % state_len).unsqueeze(1).expand(-1, channels, -1)
    history = torch.cat([state.gather(2, read), inputs], dim=2)
    # of more steps than the ring holds, only the last stay; scatter does not promise which of two writes wins
    count = min(inputs.shape[2], state_len)
    steps = torch.arange(inputs.shape[2] - count, inputs.shape[2], device=inputs.device)
    write = ((start + steps) % state_len).unsqueeze(1).expand(-1, channels, -1)
    return history, state.scatter(2, write, inputs[:, :, inputs.shape[2] - count :])

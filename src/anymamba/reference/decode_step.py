"""One token of some texts through a whole Mamba-1 or Mamba-2 model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.reference import blocks
from anymamba.reference import supports as supports


def decode_step(
    ids: Tensor,
    recurrences: Sequence[Any],
    norm_eps: float,
    embedding: Tensor,
    layers: Sequence[Mapping[str, Tensor]],
    norm: Tensor,
    head: Tensor,
    head_scale: Tensor | None,
    states: Sequence[Mapping[str, Tensor]],
) -> Tensor:
    """ids (batch,). embedding (vocabulary, d_model). recurrences, layers, states: of every block, see
    anymamba.backends.decode_model. Returns logits (batch, vocabulary), float32 or better; the states are changed in place."""
    dtype = torch.float64 if torch.float64 in (embedding.dtype, norm.dtype) else torch.float32
    with torch.no_grad():
        rows = embedding[ids]
        hidden = blocks.unpacked(rows, norm.shape[0], dtype) if rows.dtype == torch.uint8 else rows.to(dtype)
        for recurrence, layer, state in zip(recurrences, layers, states):
            mixer = _by_channel if hasattr(recurrence, "dt_rank") else _by_head
            hidden = hidden + mixer(_rms(hidden, norm_eps) * layer["norm"].to(dtype), recurrence, layer, state)
        return (_rms(hidden, norm_eps) * norm.to(dtype)) @ _weight(head, head_scale, hidden).mT


def _by_channel(x: Tensor, recurrence: Any, layer: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Tensor:
    dtype, n, eps = x.dtype, recurrence.d_state, recurrence.norm_eps
    x, z = _linear(x, layer, "in_proj").chunk(2, dim=1)
    x = _convolve(x, layer, state["conv"])
    low, B, C = _linear(x, layer, "x_proj").split([recurrence.dt_rank, n, n], dim=1)
    if eps is not None:
        low, B, C = (_rms(part, eps) for part in (low, B, C))
    dt = F.softplus(low @ layer["dt_proj"].to(dtype).mT + layer["dt_bias"].to(dtype))
    decay = torch.exp(dt[..., None] * -torch.exp(layer["A_log"].to(dtype)))
    after = decay * state["ssm"].to(dtype) + (dt * x)[..., None] * B[:, None]
    state["ssm"].copy_(after)
    y = (after * C[:, None]).sum(dim=2) + layer["D"].to(dtype) * x
    return _linear(y * F.silu(z), layer, "out_proj")


def _by_head(x: Tensor, recurrence: Any, layer: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Tensor:
    dtype, heads, groups, n = x.dtype, recurrence.nheads, recurrence.ngroups, recurrence.d_state
    z, xBC, dt = _linear(x, layer, "in_proj").split([rows for rows, _ in recurrence.in_proj], dim=1)
    x, B, C = _convolve(xBC, layer, state["conv"]).split([recurrence.d_inner, groups * n, groups * n], dim=1)
    x = x.unflatten(1, (heads, recurrence.headdim))
    B, C = (part.unflatten(1, (groups, n)).repeat_interleave(heads // groups, dim=1)[:, :, None] for part in (B, C))
    dt = F.softplus(dt + layer["dt_bias"].to(dtype)).clamp(*recurrence.dt_limit)
    decay = torch.exp(dt * -torch.exp(layer["A_log"].to(dtype)))[..., None, None]
    after = decay * state["ssm"].to(dtype) + (dt[..., None] * x)[..., None] * B
    state["ssm"].copy_(after)
    y = ((after * C).sum(dim=3) + layer["D"].to(dtype)[:, None] * x).flatten(1)
    y = _rms((y * F.silu(z)).unflatten(1, (groups, -1)), recurrence.norm_eps).flatten(1)
    return _linear(y * layer["gated_norm"].to(dtype), layer, "out_proj")


def _convolve(x: Tensor, layer: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """x (batch, channels) after the inputs of the last tokens, (batch, channels, conv_kernel - 1), which it joins."""
    window = torch.cat([inputs.to(x.dtype), x[..., None]], dim=2)
    inputs.copy_(window[..., 1:])
    total = (window * layer["conv_weight"].to(x.dtype)).sum(dim=2)
    return F.silu(total + layer["conv_bias"].to(x.dtype) if "conv_bias" in layer else total)


def _linear(x: Tensor, layer: Mapping[str, Tensor], name: str) -> Tensor:
    y = x @ _weight(layer[name], layer.get(f"{name}_scale"), x).mT
    return y + layer[f"{name}_bias"].to(x.dtype) if f"{name}_bias" in layer else y


def _weight(weight: Tensor, scale: Tensor | None, x: Tensor) -> Tensor:
    """Of a layer that x goes into, in the dtype of x."""
    dtype = x.dtype
    if weight.dtype == torch.uint8:
        return blocks.unpacked(weight, x.shape[1], dtype)
    return weight.to(dtype) if scale is None else weight.to(dtype) * scale.to(dtype)[:, None]


def _rms(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)

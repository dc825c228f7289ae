"""One token of some texts through a whole model of Mamba-1, Mamba-2 or Mamba-3."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.reference import blocks
from anymamba.reference import supports as supports
from anymamba.reference.mamba3 import rotate
from anymamba.reference.mamba3_decay import decay_rate
from anymamba.reference.mamba3_state_update import mamba3_state_update


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
            mixer = _by_channel if hasattr(recurrence, "dt_rank") else _by_rank if hasattr(recurrence, "rank") else _by_head
            hidden = hidden + mixer(_rms(hidden, norm_eps) * layer["norm"].to(dtype), recurrence, layer, state)
            if "fc1" in layer:
                y, gate = _linear(_rms(hidden, norm_eps) * layer["mlp_norm"].to(dtype), layer, "fc1").chunk(2, dim=1)
                hidden = hidden + _linear(y * F.silu(gate), layer, "fc2")
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


def _by_rank(x: Tensor, recurrence: Any, layer: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Tensor:
    dtype, heads, headdim, n, rank = x.dtype, recurrence.nheads, recurrence.headdim, recurrence.d_state, recurrence.rank
    z, x, B, C, dt, A, trap, angles = _linear(x, layer, "in_proj").split(recurrence.widths, dim=1)
    z, x = (part.unflatten(1, (heads, headdim)) for part in (z, x))
    ssm, angle = state["ssm"].to(dtype).split([headdim * n, recurrence.num_angles], dim=2)
    keys, value = state["conv"].to(dtype).split([rank * n, headdim], dim=2)
    keys, ssm = keys.unflatten(2, (rank, n)).transpose(1, 2), ssm.unflatten(2, (headdim, n)).contiguous()
    dt = F.softplus(dt + layer["dt_bias"].to(dtype))
    angle = torch.remainder(angle + (math.pi * torch.tanh(angles)[:, None] * dt[:, :, None]), 2 * math.pi)
    turned = []
    for part, name in ((B, "B"), (C, "C")):
        part = _rms(part.unflatten(1, (rank, recurrence.ngroups, n)), recurrence.norm_eps) * layer[f"{name}_norm"].to(dtype)
        part = part.repeat_interleave(heads // recurrence.ngroups, dim=2) + layer[f"{name}_bias"].to(dtype).transpose(0, 1)
        turned.append(rotate(part, angle.unsqueeze(1), not recurrence.projected))
    decay = decay_rate(A, recurrence.a_activation, recurrence.a_floor)
    if recurrence.projected:
        up, gate, down = (layer[name].to(dtype).transpose(0, 1) for name in ("mimo_x", "mimo_z", "mimo_o"))
    else:
        up = gate = down = x.new_ones(1, heads, headdim)
    y = mamba3_state_update(ssm, keys, value, decay, turned[0], turned[1], layer["D"], x, dt, torch.sigmoid(trap), up)
    if recurrence.gated_norm:
        y = _rms(y, recurrence.norm_eps) * layer["gated_norm"].to(dtype).view(heads, headdim)
    y = (y * F.silu(z[:, None] * gate) * down).sum(1)
    state["ssm"].copy_(torch.cat([ssm.flatten(2), angle], dim=2))
    state["conv"].copy_(torch.cat([turned[0].transpose(1, 2).flatten(2), x], dim=2))
    return _linear(y.flatten(1), layer, "out_proj")


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

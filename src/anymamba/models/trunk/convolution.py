"""The causal depthwise convolution and SiLU of a mixer, over whole texts, packed documents, pieces and single tokens.

By the ops where the module is a plain ``nn.Conv1d``; else the module itself runs on inputs with ``width - 1`` steps in front.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymamba import ops
from anymamba.errors import ArgumentError
from anymamba.language import _
from anymamba.models import plain
from anymamba.models.plain import Weights
from anymamba.models.trunk.documents import Documents
from anymamba.models.trunk.state import LayerState


def convolve(x: Tensor, conv1d: nn.Module, width: int, documents: Documents | None, state: LayerState | None) -> Tensor:
    """x, result: (batch, channels, length). state: what stood before; it is updated."""
    weights = readable(conv1d, x.shape[1], width)
    if weights is None:
        return _by_module(x, conv1d, width, documents, state)
    weight = weights.weight.squeeze(1)
    if state is None:
        seq_idx = None if documents is None else documents.seq_idx
        y: Any = ops.causal_conv1d_fn(x, weight, weights.bias, seq_idx=seq_idx, activation="silu")
        return y
    # a copy: the backward pass needs what stood there before the update
    before = state.conv.to(x.dtype, copy=True) if state.used else None
    y, after = ops.causal_conv1d_fn(
        x, weight, weights.bias, initial_states=before, return_final_states=True, activation="silu"
    )
    state.conv.copy_(after.detach())
    return y


def convolve_step(x: Tensor, conv1d: nn.Module, width: int, state: LayerState) -> Tensor:
    """The same for one token: x (batch, channels)."""
    weights = readable(conv1d, x.shape[1], width)
    if weights is None:
        return _by_module(x.unsqueeze(-1), conv1d, width, None, state).squeeze(-1)
    stored = x.to(state.conv.dtype)
    y = ops.causal_conv1d_update(stored, state.conv, weights.weight.squeeze(1), weights.bias, activation="silu")
    return y.to(x.dtype)


def readable(conv1d: nn.Module, channels: int, width: int) -> Weights | None:
    """The weight (channels, 1, width) and bias of a plain causal convolution."""
    weights, _ = plain.weights(conv1d)
    if weights is None or tuple(weights.weight.shape) != (channels, 1, width):
        return None
    module: Any = conv1d
    usual = module.stride == (1,) and module.dilation == (1,) and module.padding == (0,) and module.padding_mode == "zeros"
    return weights if usual else None


def _by_module(x: Tensor, conv1d: nn.Module, width: int, documents: Documents | None, state: LayerState | None) -> Tensor:
    if documents is not None:
        return _documents_by_module(x, conv1d, width, documents)
    if state is None:
        return F.silu(_called(conv1d, F.pad(x, (width - 1, 0)), x))
    both = torch.cat([state.conv.to(x.dtype) if state.used else torch.zeros_like(state.conv, dtype=x.dtype), x], dim=-1)
    y = F.silu(_called(conv1d, both, x))
    state.conv.copy_(both[..., both.shape[-1] - (width - 1) :].detach())
    return y


def _documents_by_module(x: Tensor, conv1d: nn.Module, width: int, documents: Documents) -> Tensor:
    """All documents of all rows in one row, each behind ``width - 1`` zeros of its own."""
    batch, channels, length = x.shape
    starts = documents.starts.clone()
    starts[:, 0] = True
    place = torch.arange(batch * length, device=x.device) + (width - 1) * starts.flatten().cumsum(0)
    spread = x.new_zeros(1, channels, int(place[-1]) + 1).index_copy(2, place, x.transpose(0, 1).reshape(1, channels, -1))
    y = F.silu(_called(conv1d, spread, spread[..., width - 1 :]))
    return y[..., place - (width - 1)].view(channels, batch, length).transpose(0, 1)


def _called(conv1d: nn.Module, x: Tensor, like: Tensor) -> Tensor:
    y: Tensor = conv1d(x)
    if y.shape != like.shape:
        raise ArgumentError(
            "shape",
            _("conv1d ({kind}) gave {y_shape} for an input of {x_shape}, expected {expected}").format(
                kind=type(conv1d).__name__, y_shape=tuple(y.shape), x_shape=tuple(x.shape), expected=tuple(like.shape)
            ),
        )
    return y

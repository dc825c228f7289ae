"""What the mixers read of their own modules in place of calling them, and how they call them where that is not all; anymamba's own file,
not in upstream's tree. Upstream reads the weights whatever is attached to the module: an adapter or a hook there is dead, silently."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymamba.dropin.caller import bias_unread, say_once
from anymamba.errors import ArgumentError
from anymamba.language import _
from anymamba.models import plain
from anymamba.models.plain import Weights
from anymamba.ops import projection

from .convolution import causal_conv1d_fn, causal_conv1d_update

_WITHOUT_BIAS = ("x_proj", "norm")
"""Modules of whose bias the fused functions know nothing; these have none, unless somebody gives them one."""


def fusible(mixer: nn.Module, *names: str) -> list[Weights] | None:
    """The weights of these modules of the mixer, parametrised ones computed, if they are all that calling them would apply; None,
    with the reason said once, if not."""
    weight_list, reasons = [], {}
    for name in names:
        weights, reason = plain.weights(getattr(mixer, name))
        if weights is None:
            reasons[name] = reason
        elif name in _WITHOUT_BIAS and weights.bias is not None:
            reasons[name] = bias_unread()
        else:
            weight_list.append(weights)
    if reasons and not torch.compiler.is_compiling():
        say_once(mixer, reasons)
    return None if reasons else weight_list


def called(module: nn.Module, x: Tensor) -> Tensor:
    """module(x) of a linear layer, (..., in) to (..., out). In 16 bits on a processor without such units a plain one's product is ours,
    several times as fast as torch's there; the layer stays the nn.Linear that programs look for."""
    dtype = projection.result_dtype(x)
    if projection.in_float32(dtype, x):
        weights, _ = plain.weights(module)
        fits = weights is not None and (weights.weight.dtype == x.dtype or projection.autocast_dtype(x.device) is not None)
        if weights is not None and fits and projection.in_float32(dtype, x, weights.weight):
            return projection.linear(x, weights.weight, weights.bias)
    y: Tensor = module(x)
    return y


def convolved(mixer: Any, x: Tensor, seq_idx: Tensor | None = None) -> Tensor:
    """Convolution and SiLU of x (batch, channels, length); the same shape. Raises ArgumentError for seq_idx where the module must
    be called."""
    weights, reason = plain.weights(mixer.conv1d)
    if weights is not None:
        return causal_conv1d_fn(x, weights.weight[:, 0], weights.bias, activation=mixer.activation, seq_idx=seq_idx)
    if seq_idx is not None:
        raise ArgumentError("value", _("seq_idx cannot be used with this conv1d: {reason}").format(reason=reason))
    return F.silu(mixer.conv1d(x)[..., : x.shape[-1]])


def convolved_step(mixer: Any, x: Tensor, conv_state: Tensor) -> Tensor:
    """One token: x (batch, channels), conv_state (batch, channels, width) changed in place; like x."""
    weights, _ = plain.weights(mixer.conv1d)
    if weights is not None:
        return causal_conv1d_update(x, conv_state, weights.weight[:, 0], weights.bias, mixer.activation)
    conv_state.copy_(torch.cat([conv_state[..., 1:], x[..., None].to(conv_state.dtype)], dim=-1))
    width = conv_state.shape[-1]
    # the module pads width - 1 zeros on both sides: the output that sees the whole window is the last of the first width
    return F.silu(mixer.conv1d(conv_state.to(x.dtype))[..., width - 1])

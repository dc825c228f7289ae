"""causal_conv1d's own kernels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.official import importable, upstream
from anymamba.language import _


def supports(call: Call) -> tuple[bool, str]:
    if call.size("width") not in (2, 3, 4):
        return False, _("width {width}; upstream has 2, 3 and 4").format(width=call.size("width"))
    if "mixed_dtype" in call.features:
        return False, _("activations of different dtypes")
    if "seq_idx" in call.features and call.features & {"initial_states", "return_final_states"}:
        return False, _("seq_idx together with states")
    return importable("causal_conv1d", call.op)


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Any:
    if seq_idx is not None or initial_states is not None or return_final_states:
        x = _channel_last(x)
    if seq_idx is not None:
        seq_idx = seq_idx.int().contiguous()
    if initial_states is not None:
        initial_states = _channel_last(initial_states)
    function = upstream("causal_conv1d").causal_conv1d_fn
    return function(x, weight, bias, seq_idx, initial_states, return_final_states, final_states_out, activation)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    function = upstream("causal_conv1d").causal_conv1d_update
    return function(x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices)


def _channel_last(tensor: Tensor) -> Tensor:
    """(batch, channels, length) with channel stride 1, copied only if it is not."""
    return tensor if tensor.stride(1) == 1 else tensor.transpose(1, 2).contiguous().transpose(1, 2)

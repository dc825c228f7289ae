"""The convolution over a sequence and the step of one token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymamba import ops
from anymamba.dropin.borrowed import borrowed
from anymamba.dropin.counting import counted
from anymamba.reference import causal_conv1d as exact

causal_conv1d_fn = counted(__name__, ops.causal_conv1d_fn)
causal_conv1d_update = counted(__name__, ops.causal_conv1d_update)


class CausalConv1dFn:
    """Kept for callers of the class: ``apply`` is causal_conv1d_fn, which has its own autograd node."""

    @staticmethod
    def apply(*arguments: Any) -> Any:
        return causal_conv1d_fn(*arguments)


def causal_conv1d_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
    seq_idx: Tensor | None = None,
) -> Any:
    """The convolution in plain torch. x: (batch, dim, length), weight: (dim, width); like causal_conv1d_fn otherwise.

    Raises NotImplementedError for an unknown activation.
    """
    return exact.causal_conv1d_fn(x, weight, bias, seq_idx, initial_states, return_final_states, final_states_out, activation)


def causal_conv1d_update_ref(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
) -> Tensor:
    """The step in plain torch. x: (batch, dim) or (batch, dim, steps); conv_state: (batch, dim, state_len), changed in place."""
    with torch.no_grad():
        return exact.causal_conv1d_update(x, conv_state, weight, bias, activation, cache_seqlens)


__getattr__ = borrowed(
    __name__,
    "import torch.nn.functional as F; "
    "from .cpp_functions import causal_conv1d_bwd_function, causal_conv1d_fwd_function, causal_conv1d_update_function",
)

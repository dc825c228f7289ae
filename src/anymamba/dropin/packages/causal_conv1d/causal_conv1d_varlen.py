"""The convolution states that packed sequences leave behind."""

from __future__ import annotations

import torch as torch
from torch import Tensor

from anymamba import ops
from anymamba.dropin.counting import counted
from anymamba.reference import causal_conv1d as exact

causal_conv1d_varlen_states = counted(__name__, ops.causal_conv1d_varlen_states)


def causal_conv1d_varlen_states_ref(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """x: (tokens, dim), cu_seqlens: (sequences + 1,). Returns (sequences, dim, state_len), right aligned, zeros on the left."""
    return exact.causal_conv1d_varlen_states(x, cu_seqlens, state_len)

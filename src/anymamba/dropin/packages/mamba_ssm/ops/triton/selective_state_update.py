"""One token of the Mamba-1 or Mamba-2 recurrence."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba import ops
from anymamba.dropin.borrowed import borrowed
from anymamba.dropin.counting import counted
from anymamba.reference import selective_state_update as exact

selective_state_update = counted(__name__, ops.selective_state_update)


def selective_state_update_ref(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """The step in plain torch; state (batch, dim, d_state) or (batch, nheads, headdim, d_state) is changed in place."""
    with torch.no_grad():
        return exact.selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)


__getattr__ = borrowed(
    __name__,
    "from einops import rearrange, repeat"
    "; import torch.nn.functional as F"
    "; from .softplus import softplus",
)

"""mamba_ssm's Triton step."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.official import importable, upstream

_MODULE = "mamba_ssm.ops.triton.selective_state_update"


def supports(call: Call) -> tuple[bool, str]:
    return importable(_MODULE, "selective_state_update")


def selective_state_update(
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
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    # upstream unpacks the strides of D and dt_bias even where they are None
    per_channel = x.shape[1:]
    if D is None:
        D = torch.zeros((), device=x.device).expand(per_channel)
    if dt_bias is None:
        dt_bias = torch.zeros((), device=x.device).expand(per_channel)
    return upstream(_MODULE).selective_state_update(
        state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices
    )

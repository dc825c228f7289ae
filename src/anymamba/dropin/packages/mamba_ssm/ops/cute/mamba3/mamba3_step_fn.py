"""One token of Mamba-3 on keys and queries that are turned already."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from anymamba import ops
from anymamba.dropin.counting import counted
from anymamba.reference import mamba3_state_update as exact

_counted = counted(__name__, ops.mamba3_step_fn)


@functools.wraps(_counted)
def mamba3_step_fn(*arguments: Any, **keywords: Any) -> None:
    _counted(*arguments, **keywords)


mamba3_step_fn.__signature__ = _counted.__signature__  # type: ignore[attr-defined]


def selective_state_update_fused_ref_v2(
    state: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    xproj: Tensor,
    x: Tensor,
    zproj: Tensor | None,
    z: Tensor | None,
    dt: Tensor,
    B_state: Tensor,
    x_state: Tensor,
    trap: Tensor,
    D: Tensor,
    outproj: Tensor | None,
    compute_dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """The step in plain torch; shapes as in mamba3_step_fn. Returns the output and the new state, both in the dtype of state."""
    new = state.to(compute_dtype, copy=True)
    given = (B_state, x_state, A, B, C, D, x, dt, trap, xproj, outproj, z, zproj)
    wide: list[Any] = [None if tensor is None else tensor.to(compute_dtype) for tensor in given]
    with torch.no_grad():
        out = exact.mamba3_state_update(new, *wide)
    return out.to(state.dtype), new.to(state.dtype)

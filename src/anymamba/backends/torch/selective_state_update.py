"""One step of the scan for every sequence in the batch, on states kept by the caller."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.backends.torch import supports as supports
from anymamba.backends.torch.precision import full_precision, wide_dtype


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
    """See anymamba.ops.selective_state_update. state: (rows, [heads,] channels, d_state) is updated in place."""
    with torch.no_grad(), full_precision(x.device):
        wide = wide_dtype(state, x, dt, A, B, C, D, z, dt_bias)
        # a padding entry works on a copy of row 0, which is not written back
        rows = None if state_batch_indices is None else state_batch_indices.clamp(min=0).long()
        before = state if rows is None else state[rows]
        step = dt.to(wide) if dt_bias is None else dt.to(wide) + dt_bias.to(wide)
        if dt_softplus:
            step = F.softplus(step)
        x_wide = x.to(wide)
        decay = torch.exp(step.unsqueeze(-1) * A.to(wide))
        B_wide, C_wide = (_per_channel(X.to(wide), x) for X in (B, C))
        after = torch.addcmul(decay * before, (step * x_wide).unsqueeze(-1), B_wide)
        out = (after * C_wide).sum(-1)
        if D is not None:
            out = torch.addcmul(out, D.to(wide), x_wide)
        if z is not None:
            out = out * F.silu(z.to(wide))
        out = out.to(x.dtype)
        if rows is None or state_batch_indices is None:
            state.copy_(after)
            return out
        real = state_batch_indices >= 0
        state[rows[real]] = after[real].to(state.dtype)
        return out.masked_fill(~real.view(-1, *[1] * (out.dim() - 1)), 0)


def _per_channel(X: Tensor, x: Tensor) -> Tensor:
    """B or C, (batch, d_state) or (batch, groups, d_state), so that it broadcasts over the state of x."""
    X = X.unsqueeze(1) if X.dim() == 2 else X
    if X.shape[1] not in (1, x.shape[1]):
        X = X.repeat_interleave(x.shape[1] // X.shape[1], dim=1)
    return X if x.dim() == 2 else X.unsqueeze(2)

"""One token of the scan of Mamba-1 (no heads) or Mamba-2 (heads): ``selective_state_update_ref`` of mamba_ssm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.reference import supports as supports
from anymamba.reference.arithmetic import working_dtype


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
    """state (rows, dim, d_state) or (rows, nheads, headdim, d_state), changed in place; x, dt, z (batch, dim) or
    (batch, nheads, headdim); A (dim, d_state) or (nheads, headdim, d_state); B, C (batch, d_state) or (batch, ngroups, d_state),
    head i uses group i // (nheads // ngroups); D, dt_bias (dim,) or (nheads, headdim).

    state_batch_indices (batch,): the row of each sequence; a negative one is padding: output 0, no state is touched.
    Returns out with shape and dtype of x; no gradient passes.
    """
    dtype = working_dtype(state, x, dt, A, B, C, D, z, dt_bias)
    out = []
    with torch.no_grad():
        for b in range(x.shape[0]):
            row = b if state_batch_indices is None else int(state_batch_indices[b])
            if row < 0:
                out.append(torch.zeros_like(x[b]))
                continue
            step = dt[b].to(dtype) if dt_bias is None else dt[b].to(dtype) + dt_bias.to(dtype)
            if dt_softplus:
                step = F.softplus(step)
            B_row, C_row = (_spread(M[b].to(dtype), x) for M in (B, C))
            token, decay = x[b].to(dtype), torch.exp(step[..., None] * A.to(dtype))
            now = decay * state[row].to(dtype) + (step * token)[..., None] * B_row
            state[row] = now.to(state.dtype)
            y = (now * C_row).sum(dim=-1)
            if D is not None:
                y = y + D.to(dtype) * token
            if z is not None:
                y = y * F.silu(z[b].to(dtype))
            out.append(y.to(x.dtype))
    return torch.stack(out) if out else torch.zeros_like(x)


def _spread(matrix: Tensor, x: Tensor) -> Tensor:
    """B or C of one sequence, (d_state,) or (ngroups, d_state), broadcastable against its state."""
    if matrix.dim() == 1:
        return matrix
    if x.dim() == 2:
        return matrix.repeat_interleave(x.shape[1] // matrix.shape[0], dim=0)
    return matrix.repeat_interleave(x.shape[1] // matrix.shape[0], dim=0)[:, None]

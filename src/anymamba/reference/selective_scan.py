"""The Mamba-1 scan (Mamba, section 3.2, equations 2 and 4; ``selective_scan_ref`` of mamba_ssm).

h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]        y[t] = C[t] . h[t] + D u[t]        out[t] = y[t] * silu(z[t])
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.reference import supports as supports
from anymamba.reference.arithmetic import working_dtype


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """u, delta, z (batch, dim, length); A (dim, d_state), real or complex; D, delta_bias (dim,).

    B and C, each on its own: (dim, d_state) constant in time, or (batch, d_state, length), or (batch, ngroups, d_state, length)
    where channel i uses group i // (dim // ngroups). With complex A a constant B or C is complex, one that varies is real with
    2 * length columns, real and imaginary part of each token side by side, and y is twice the real part of C . h.
    initial_states (batch, dim, d_state): h before token 0, else zero. seq_idx (batch, length): a token whose id differs from the
    last one starts a document with a state of zero; initial_states belong to the first document, whatever its id. A token with
    seq_idx < 0 is padding, as if it were not there: output 0, the state passes it unchanged.
    Returns out (batch, dim, length) in the dtype of u; with return_last_state also h after the last token (batch, dim, d_state),
    which passes no gradient on.
    """
    dtype = working_dtype(u, delta, A, B, C, D, z, delta_bias)
    state_dtype = dtype.to_complex() if A.is_complex() else dtype
    batch, dim, length = u.shape
    step = delta.to(dtype)
    if delta_bias is not None:
        step = step + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        step = F.softplus(step)
    inputs, decay = u.to(dtype), A.to(state_dtype)
    B_at, C_at = (_per_token(M, dim, length, A.is_complex()).to(state_dtype) for M in (B, C))
    state = torch.zeros(batch, dim, A.shape[1], dtype=state_dtype, device=u.device)
    if initial_states is not None:
        state = initial_states.to(state_dtype, copy=True)
    # of the last token that is no padding
    document = None if seq_idx is None or not length else torch.full_like(seq_idx[:, 0], -1)
    outputs = []
    for t in range(length):
        before = state
        if seq_idx is not None and document is not None:
            real = seq_idx[:, t] >= 0
            fresh = real & (document >= 0) & (seq_idx[:, t] != document)
            before = before.masked_fill(fresh[:, None, None], 0)
            document = torch.where(real, seq_idx[:, t], document)
        after = torch.exp(step[:, :, t, None] * decay) * before + (step * inputs)[:, :, t, None] * B_at[..., t]
        state = after if seq_idx is None else torch.where(real[:, None, None], after, state)
        y = (C_at[..., t] * state).sum(dim=2)
        outputs.append(2 * y.real if A.is_complex() else y)
    out = torch.stack(outputs, dim=2) if outputs else inputs.clone()  # length 0: empty, and still part of the graph
    if D is not None:
        out = out + D.to(dtype)[:, None] * inputs
    if z is not None:
        out = out * F.silu(z.to(dtype))
    if seq_idx is not None:
        out = out.masked_fill((seq_idx < 0)[:, None, :], 0)
    out = out.to(u.dtype)
    return (out, state.detach()) if return_last_state else out


def _per_token(matrix: Tensor, dim: int, length: int, complex_A: bool) -> Tensor:
    """B or C in any of its forms as (batch or 1, dim, d_state, length)."""
    if matrix.dim() == 2:
        return matrix[None, :, :, None].expand(-1, -1, -1, length)
    if complex_A:
        matrix = torch.view_as_complex(matrix.unflatten(-1, (length, 2)).contiguous())
    if matrix.dim() == 3:
        matrix = matrix[:, None]
    return matrix.repeat_interleave(dim // matrix.shape[1], dim=1)

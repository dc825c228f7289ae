"""One token of Mamba-3's recurrence on keys that are turned already (``mamba3_step_fn.py`` of mamba_ssm)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.reference import supports as supports
from anymamba.reference.arithmetic import working_dtype


def mamba3_state_update(
    state: Tensor,
    Bstate: Tensor,
    Xstate: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    x: Tensor,
    dt: Tensor,
    trap: Tensor,
    xproj: Tensor,
    outproj: Tensor | None = None,
    z: Tensor | None = None,
    zproj: Tensor | None = None,
) -> Tensor:
    """state = exp(A dt) state + sum over r of (1 - trap) dt exp(A dt) Xstate xproj[r] Bstate[r]^T + trap dt x xproj[r] B[r]^T, in place;
    out[r] = (state C[r] + D x xproj[r]) * silu(z zproj[r]), and with outproj the sum over r of out[r] * outproj[r].

    state (batch, nheads, headdim, d_state); Bstate, B, C (batch, rank, nheads, d_state), biased and turned; Xstate, x, z
    (batch, nheads, headdim); A (negative), dt, trap (between 0 and 1) (batch, nheads); D (nheads,); xproj, zproj, outproj
    (rank, nheads, headdim). Returns out, (batch, nheads, headdim), without outproj (batch, rank, nheads, headdim), in the dtype of x."""
    dtype = working_dtype(state, Bstate, Xstate, A, B, C, D, x, dt, trap, xproj, outproj, z, zproj)
    share, step = trap.to(dtype), dt.to(dtype)
    decay = torch.exp(A.to(dtype) * step)
    earlier, now = (
        torch.einsum("brhp,brhn->bhpn", value.to(dtype).unsqueeze(1) * xproj.to(dtype), key.to(dtype))
        for value, key in ((Xstate, Bstate), (x, B))
    )
    weights = (decay, (1 - share) * step * decay, share * step)
    new = sum(weight[..., None, None] * term for weight, term in zip(weights, (state.to(dtype), earlier, now)))
    assert isinstance(new, Tensor)
    state.copy_(new)
    out = torch.einsum("bhpn,brhn->brhp", new, C.to(dtype))
    if D is not None:
        out = out + D.to(dtype)[:, None] * x.to(dtype).unsqueeze(1) * xproj.to(dtype)
    if z is not None:
        assert zproj is not None
        out = out * F.silu(z.to(dtype).unsqueeze(1) * zproj.to(dtype))
    if outproj is not None:
        out = (out * outproj.to(dtype)).sum(1)
    return out.to(x.dtype)

"""The outputs of each chunk from its inputs and the state before it (Mamba-2, listing 1, steps 1 and 4), in plain torch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.dropin.borrowed import borrowed

from .chunks import chunked, per_head
from .ssd_bmm import _bmm_chunk_fwd


def _chunk_scan_fwd(
    cb: Tensor,
    x: Tensor,
    dt: Tensor,
    dA_cumsum: Tensor,
    C: Tensor,
    states: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    seq_idx: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """cb: (batch, nchunks, ngroups, chunk_size, chunk_size), zero between documents; x, z: (batch, length, nheads, headdim);
    dt, dA_cumsum: (batch, nheads, nchunks, chunk_size); C: (batch, length, ngroups, d_state); states: (batch, nchunks, nheads, headdim,
    d_state), the state before each chunk; D: (nheads,) or (nheads, headdim); seq_idx: (batch, length): only tokens of the document that
    ended the chunk before see its state.

    Returns out (batch, length, nheads, headdim) in the dtype of x, and the same before the gate (None without z).
    """
    length, nheads, chunk_size = x.shape[1], x.shape[2], dt.shape[-1]
    later = torch.ones(chunk_size, chunk_size, dtype=torch.bool, device=x.device).triu(1)
    between = (dA_cumsum[..., :, None] - dA_cumsum[..., None, :]).masked_fill(later, float("-inf"))
    scores = cb.float().repeat_interleave(nheads // cb.shape[2], dim=2) * torch.exp(between).transpose(1, 2)
    inside = torch.einsum("bchls,bhcs,bcshp->bclhp", scores, dt.float(), chunked(x, chunk_size).float())
    decay = torch.exp(dA_cumsum).permute(0, 2, 3, 1)
    if seq_idx is not None:
        ends = [max(start - 1, 0) for start in range(0, dt.shape[2] * chunk_size, chunk_size)]
        before = seq_idx[:, ends].clone()
        before[:, 0] = 0
        decay = decay * (chunked(seq_idx, chunk_size) == before[:, :, None])[..., None]
    outputs = chunked(per_head(C, nheads), chunk_size).float()
    out = inside + torch.einsum("bclhn,bchpn->bclhp", outputs, states.float()) * decay[..., None]
    y = out.flatten(1, 2)[:, :length]
    if D is not None:
        y = y + D.float().reshape(nheads, -1) * x.float()
    if z is None:
        return y.to(x.dtype), None
    return (y * F.silu(z.float())).to(x.dtype), y.to(x.dtype)


class ChunkScanFn:
    """Kept for callers of the class: ``apply`` is chunk_scan, differentiated by autograd."""

    @staticmethod
    def apply(*arguments: Any) -> Any:
        return chunk_scan(*arguments)


def chunk_scan(
    B: Tensor,
    C: Tensor,
    x: Tensor,
    dt: Tensor,
    dA_cumsum: Tensor,
    prev_states: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
) -> Tensor:
    """The outputs of each chunk, differentiable. B, C: (batch, length, ngroups, d_state); prev_states: the state before each chunk;
    the rest as in _chunk_scan_fwd."""
    cb = _bmm_chunk_fwd(C, B, dt.shape[-1], output_dtype=torch.float32)
    return _chunk_scan_fwd(cb, x, dt, dA_cumsum, C, prev_states, D, z)[0]


def chunk_scan_ref(
    B: Tensor,
    C: Tensor,
    x: Tensor,
    dt: Tensor,
    dA_cumsum: Tensor,
    prev_states: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
) -> Tensor:
    """The outputs of each chunk, token by token: an independent computation for tests; shapes as in chunk_scan."""
    chunk_size, nheads = dt.shape[-1], x.shape[2]
    tokens = chunked(x, chunk_size).float()
    inputs, outputs = (chunked(per_head(M, nheads), chunk_size).float() for M in (B, C))
    state, y = prev_states.float(), []
    for t in range(chunk_size):
        change = dA_cumsum[..., t] - (dA_cumsum[..., t - 1] if t else 0)
        update = (dt[..., t].transpose(1, 2)[..., None] * tokens[:, :, t])[..., None] * inputs[:, :, t, :, None]
        state = torch.exp(change).transpose(1, 2)[..., None, None] * state + update
        y.append((state * outputs[:, :, t, :, None]).sum(dim=-1))
    out = torch.stack(y, dim=2).flatten(1, 2)[:, : x.shape[1]]
    if D is not None:
        out = out + D.float().reshape(nheads, -1) * x.float()
    return (out if z is None else out * F.silu(z.float())).to(x.dtype)


__getattr__ = borrowed(
    __name__,
    "from einops import rearrange, repeat"
    "; from ...utils.determinism import alloc_tile_workspace, finalize_tile_workspace, use_deterministic_mode",
)

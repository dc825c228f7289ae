"""The state that each chunk leaves behind on its own (Mamba-2, listing 1, step 2), in plain torch; differentiated by autograd."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.dropin.borrowed import borrowed

from .chunks import chunked, per_head


def _chunk_cumsum_fwd(
    dt: Tensor,
    A: Tensor,
    chunk_size: int,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
) -> tuple[Tensor, Tensor]:
    """dt: (batch, length, nheads); A, dt_bias: (nheads,). Returns dA_cumsum and dt, float32 (batch, nheads, nchunks, chunk_size)."""
    step = dt.float() if dt_bias is None else dt.float() + dt_bias.float()
    step = (F.softplus(step) if dt_softplus else step).clamp(*dt_limit)
    steps = chunked(step, chunk_size).permute(0, 3, 1, 2)
    return torch.cumsum(steps * A.float()[:, None, None], dim=-1), steps


def _chunk_state_fwd(
    B: Tensor,
    x: Tensor,
    dt: Tensor,
    dA_cumsum: Tensor,
    seq_idx: Tensor | None = None,
    states: Tensor | None = None,
    states_in_fp32: bool = True,
) -> Tensor:
    """B: (batch, length, ngroups, d_state); x: (batch, length, nheads, headdim); dt, dA_cumsum: (batch, nheads, nchunks, chunk_size).

    seq_idx: (batch, length): only the last document of a chunk counts, and no padding (negative ids).
    Returns (batch, nchunks, nheads, headdim, d_state), float32 or the dtype of B; written to states where it is given.
    """
    chunk_size = dt.shape[-1]
    weight = torch.exp(dA_cumsum[..., -1:] - dA_cumsum) * dt
    if seq_idx is not None:
        last = seq_idx[:, [min(end, seq_idx.shape[1]) - 1 for end in range(chunk_size, dt.shape[2] * chunk_size + 1, chunk_size)]]
        ids = chunked(seq_idx, chunk_size)
        weight = weight * ((ids == last[:, :, None]) & (ids >= 0))[:, None]
    wide = torch.promote_types(x.dtype, torch.float32)
    out = torch.einsum(
        "bclhn,bhcl,bclhp->bchpn", chunked(per_head(B, x.shape[2]), chunk_size).to(wide), weight.to(wide), chunked(x, chunk_size).to(wide)
    )
    if states is not None:
        return states.copy_(out)
    return out if states_in_fp32 else out.to(B.dtype)


class ChunkStateFn:
    """Kept for callers of the class: ``apply`` is chunk_state, differentiated by autograd."""

    @staticmethod
    def apply(*arguments: Any) -> Any:
        return chunk_state(*arguments)


def chunk_state(B: Tensor, x: Tensor, dt: Tensor, dA_cumsum: Tensor, states_in_fp32: bool = True) -> Tensor:
    """The state of each chunk, differentiable; shapes as in _chunk_state_fwd."""
    return _chunk_state_fwd(B, x, dt, dA_cumsum, states_in_fp32=states_in_fp32)


def chunk_state_ref(B: Tensor, x: Tensor, dt: Tensor, dA_cumsum: Tensor) -> Tensor:
    """The state of each chunk, token by token: an independent computation for tests; returns the dtype of x."""
    chunk_size, nheads = dt.shape[-1], x.shape[2]
    tokens, inputs = chunked(x, chunk_size).float(), chunked(per_head(B, nheads), chunk_size).float()
    state = tokens.new_zeros(x.shape[0], dt.shape[2], nheads, x.shape[3], B.shape[3])
    for t in range(chunk_size):
        change = dA_cumsum[..., t] - (dA_cumsum[..., t - 1] if t else 0)
        update = (dt[..., t].transpose(1, 2)[..., None] * tokens[:, :, t])[..., None] * inputs[:, :, t, :, None]
        state = torch.exp(change).transpose(1, 2)[..., None, None] * state + update
    return state.to(x.dtype)


def chunk_state_varlen(B: Tensor, x: Tensor, dt: Tensor, dA_cumsum: Tensor, cu_seqlens: Tensor, chunk_states: Tensor) -> Tensor:
    """The state at the end of each packed sequence.

    B: (tokens, ngroups, d_state); x: (tokens, nheads, headdim); dt, dA_cumsum: (nheads, nchunks, chunk_size); cu_seqlens:
    (sequences + 1,); chunk_states: (nchunks, nheads, headdim, d_state), the state before each chunk, of the sequence that is under way.
    Returns (sequences, nheads, headdim, d_state) in the dtype of chunk_states; an empty sequence leaves zeros.
    """
    chunk_size = dt.shape[-1]
    states = torch.zeros(cu_seqlens.shape[0] - 1, *chunk_states.shape[1:], dtype=chunk_states.dtype, device=x.device)
    borders = cu_seqlens.tolist()
    inputs = per_head(B, x.shape[1]).float()
    for index, (start, end) in enumerate(zip(borders[:-1], borders[1:])):
        if end == start:
            continue
        chunk = (end - 1) // chunk_size
        first = max(start, chunk * chunk_size)
        columns = slice(first - chunk * chunk_size, end - chunk * chunk_size)
        sums = dA_cumsum[:, chunk]
        last = sums[:, end - chunk * chunk_size - 1, None]
        weight = torch.exp(last - sums[:, columns]) * dt[:, chunk, columns]
        state = torch.einsum("lhn,hl,lhp->hpn", inputs[first:end], weight, x[first:end].float())
        if start < chunk * chunk_size:
            state = state + chunk_states[chunk].float() * torch.exp(last)[..., None]
        states[index] = state.to(states.dtype)
    return states


__getattr__ = borrowed(
    __name__,
    "from einops import rearrange, repeat"
    "; from .softplus import softplus"
    "; from ...utils.determinism import alloc_tile_workspace, finalize_tile_workspace, use_deterministic_mode",
)

"""Passing states from chunk to chunk (Mamba-2, listing 1, step 3), in plain torch; differentiated by autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymamba.dropin.borrowed import borrowed


def _state_passing_fwd(
    states: Tensor,
    dA_chunk_cumsum: Tensor,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    chunk_size: int | None = None,
    out_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """states: (batch, nchunks, nheads, dim); dA_chunk_cumsum: (batch, nheads, nchunks); initial_states: (batch, nheads, dim);
    seq_idx: (batch, length), with chunk_size: a state is passed on where the last id of a chunk equals that of the chunk before (0
    before the first).

    Returns the state before each chunk, shaped like states, in out_dtype or the dtype of states, and the last one (batch, nheads, dim)
    in float32.
    """
    now = torch.zeros_like(states[:, 0]) if initial_states is None else initial_states
    now, before = now.float(), []
    document = torch.zeros(()) if seq_idx is None else torch.zeros_like(seq_idx[:, 0])
    for chunk in range(states.shape[1]):
        before.append(now)
        decay = torch.exp(dA_chunk_cumsum[:, :, chunk].float())
        if seq_idx is not None:
            assert chunk_size is not None, "seq_idx needs chunk_size"
            latest = seq_idx[:, min((chunk + 1) * chunk_size, seq_idx.shape[1]) - 1]
            decay, document = decay * torch.eq(latest, document)[:, None], latest
        now = decay[..., None] * now + states[:, chunk].float()
    return torch.stack(before, dim=1).to(out_dtype or states.dtype), now


class StatePassingFn:
    """Kept for callers of the class: ``apply`` is state_passing, differentiated by autograd."""

    @staticmethod
    def apply(*arguments: Any) -> Any:
        return state_passing(*arguments)


def state_passing(states: Tensor, dA_chunk_cumsum: Tensor, initial_states: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The state before each chunk and the last one, differentiable; shapes as in _state_passing_fwd."""
    return _state_passing_fwd(states, dA_chunk_cumsum, initial_states)


def state_passing_ref(states: Tensor, dA_chunk_cumsum: Tensor, initial_states: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The same as one product with the decays between all pairs of chunks: an independent computation for tests."""
    first = torch.zeros_like(states[:, 0]) if initial_states is None else initial_states
    every = torch.cat([first[:, None], states], dim=1)
    total = torch.cumsum(torch.cat([torch.zeros_like(dA_chunk_cumsum[..., :1]), dA_chunk_cumsum], dim=-1), dim=-1)
    later = torch.ones(every.shape[1], every.shape[1], dtype=torch.bool, device=states.device).triu(1)
    decay = torch.exp((total[..., :, None] - total[..., None, :]).masked_fill(later, float("-inf")))
    out = torch.einsum("bhzc,bchd->bzhd", decay.to(states.dtype), every)
    return out[:, :-1], out[:, -1]


__getattr__ = borrowed(__name__, "from einops import rearrange, repeat; import torch.nn.functional as F")

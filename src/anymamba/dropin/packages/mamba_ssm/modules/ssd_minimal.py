"""The chunked algorithm in a few lines (Mamba-2, listing 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.dropin.borrowed import borrowed

from ..ops.triton.ssd_state_passing import state_passing_ref


def segsum(x: Tensor) -> Tensor:
    """x: (..., length). Returns (..., length, length): entry (i, j) is x[j + 1] + ... + x[i], -inf above the diagonal.

    The terms are summed apart for each j, so that no large sums cancel.
    """
    length = x.shape[-1]
    below = torch.ones(length, length, dtype=torch.bool, device=x.device).tril(-1)
    terms = x[..., :, None].expand(*x.shape, length).masked_fill(~below, 0)
    return torch.cumsum(terms, dim=-2).masked_fill(~(below | torch.eye(length, dtype=torch.bool, device=x.device)), float("-inf"))


def segsum_unstable(x: Tensor) -> Tensor:
    """segsum as a difference of running sums: quicker, less exact for long sequences."""
    total = torch.cumsum(x, dim=-1)
    lower = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.bool, device=x.device).tril()
    return (total[..., :, None] - total[..., None, :]).masked_fill(~lower, float("-inf"))


def ssd_minimal_discrete(
    X: Tensor, A: Tensor, B: Tensor, C: Tensor, block_len: int, initial_states: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """X: (batch, length, nheads, headdim), already times dt; A: (batch, length, nheads), dt * A; B, C: (batch, length, nheads, d_state);
    length a multiple of block_len; initial_states: (batch, 1, nheads, headdim, d_state).

    Returns Y, shaped like X, and the final state (batch, nheads, headdim, d_state).
    """
    assert X.shape[1] % block_len == 0, f"block_len ({block_len}) must divide the length ({X.shape[1]})"
    X, A, B, C = (M.unflatten(1, (-1, block_len)) for M in (X, A, B, C))
    decays = A.permute(0, 3, 1, 2)
    total = torch.cumsum(decays, dim=-1)
    inside = torch.einsum("bclhn,bcshn,bhcls,bcshp->bclhp", C, B, torch.exp(segsum(decays)), X)
    states = torch.einsum("bclhn,bhcl,bclhp->bchpn", B, torch.exp(total[..., -1:] - total), X)
    first = None if initial_states is None else initial_states[:, 0].flatten(2)
    before, final = state_passing_ref(states.flatten(3), total[..., -1], first)
    shape = states.shape[3:]
    between = torch.einsum("bclhn,bchpn,bhcl->bclhp", C, before.unflatten(3, shape), torch.exp(total))
    return (inside + between).flatten(1, 2), final.unflatten(2, shape)


__getattr__ = borrowed(
    __name__,
    "from einops import rearrange, repeat"
    "; import torch.nn.functional as F"
    "; from ..ops.triton.ssd_combined import mamba_chunk_scan_combined",
)

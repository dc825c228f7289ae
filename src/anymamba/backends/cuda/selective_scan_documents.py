"""The documents of a packed batch as the scan's kernels read them, in PyTorch's operations: no Triton is needed."""

from __future__ import annotations

import torch
from torch import Tensor

START, PADDING = 1, 2


def marks_of(seq_idx: Tensor) -> Tensor:
    """(batch, length) int32, contiguous: START where a token's document is not that of the last one before it that is no padding, PADDING
    where seq_idx is below 0, else 0."""
    places = torch.arange(seq_idx.shape[1], device=seq_idx.device)
    padding = seq_idx < 0
    # of each token the place of the last real one up to it, then up to the token before it; -1 where there is none
    real = places.masked_fill(padding, -1).cummax(1).values
    before = torch.nn.functional.pad(real[:, :-1], (1, 0), value=-1)
    starts = (before >= 0) & (seq_idx != seq_idx.gather(1, before.clamp_min(0)))
    return torch.where(padding, PADDING, starts.to(torch.int32)).to(torch.int32).contiguous()

"""Cutting a sequence into chunks: anymamba's own file, not in upstream's tree."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def chunked(sequence: Tensor, chunk_size: int) -> Tensor:
    """(batch, length, ...) as (batch, nchunks, chunk_size, ...); the last chunk is filled up with zeros."""
    missing = -sequence.shape[1] % chunk_size
    if missing:
        sequence = F.pad(sequence, (0, 0) * (sequence.dim() - 2) + (0, missing))
    return sequence.unflatten(1, (-1, chunk_size))


def per_head(matrix: Tensor, nheads: int) -> Tensor:
    """B or C (..., ngroups, d_state) as (..., nheads, d_state): head i has group i // (nheads // ngroups)."""
    return matrix.repeat_interleave(nheads // matrix.shape[-2], dim=-2)

"""seq_idx as the scans take it: where a document starts, and which tokens are padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def starts(seq_idx: Tensor) -> Tensor:
    """(batch, length) bool: true where a token's document is not that of the last token before it that is no padding (below 0).
    False at padding, and at the first token of a row: the state before it belongs to its document."""
    ids = seq_idx.cpu() if seq_idx.device.type == "mps" else seq_idx  # MPS lacks cummax
    real = ids >= 0
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    last_real = torch.where(real, positions, -1).cummax(dim=1).values
    before = F.pad(last_real[:, :-1], (1, 0), value=-1)
    other = ids != ids.gather(1, before.clamp(min=0))
    return (real & (before >= 0) & other).to(seq_idx.device)

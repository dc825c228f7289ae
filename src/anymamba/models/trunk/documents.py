"""Several documents in one row: which each token belongs to, and where each starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.errors import ArgumentError
from anymamba.language import _


@dataclass(frozen=True)
class Documents:
    """seq_idx: (batch, length) int32. starts: (batch, length), true where a document starts inside a row, not at a row's first token."""

    seq_idx: Tensor
    starts: Tensor


def find_documents(seq_idx: Tensor, input_ids: Tensor) -> Documents:
    """Once per forward pass, for all layers."""
    if seq_idx.shape != input_ids.shape:
        raise ArgumentError(
            "shape",
            _("seq_idx has shape {seq_idx_shape}, input_ids {input_ids_shape}: they must be equal").format(
                seq_idx_shape=tuple(seq_idx.shape), input_ids_shape=tuple(input_ids.shape)
            ),
        )
    starts = F.pad(seq_idx[:, 1:] != seq_idx[:, :-1], (1, 0))
    return Documents(seq_idx.to(torch.int32).contiguous(), starts)

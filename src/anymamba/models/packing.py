"""Several documents in one row: where each starts, and a Mamba-1 scan that forgets at every start.

Convolution and Mamba-2's scan take ``seq_idx``; ``selective_scan_fn`` has no such argument, upstream and here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba import ops
from anymamba.errors import ArgumentError
from anymamba.language import say

_FORGET = 2.0**17
"""A step so long that exp(_FORGET * A) is exactly 0 in float32 for every A below -0.0008."""


@dataclass(frozen=True)
class Documents:
    """seq_idx: (batch, length) int32. rows, columns: where a document starts inside a row, the first of a row left out."""

    seq_idx: Tensor
    rows: Tensor
    columns: Tensor


def find_documents(seq_idx: Tensor, input_ids: Tensor) -> Documents:
    """Once per forward pass, for all layers."""
    if seq_idx.shape != input_ids.shape:
        raise ArgumentError(
            "shape",
            say(
                f"seq_idx has shape {tuple(seq_idx.shape)}, input_ids {tuple(input_ids.shape)}: they must be equal",
                f"seq_idx 的形状为 {tuple(seq_idx.shape)}，input_ids 为 {tuple(input_ids.shape)}：两者必须相同",
            ),
        )
    starts = F.pad(seq_idx[:, 1:] != seq_idx[:, :-1], (1, 0))
    rows, columns = starts.nonzero(as_tuple=True)
    return Documents(seq_idx.to(torch.int32).contiguous(), rows, columns)


def scan_documents(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor, documents: Documents
) -> Tensor:
    """``selective_scan_fn(..., delta_bias=bias, delta_softplus=True)`` in which no state passes from one document to the next.

    At a document's first token the step is made so long that the old state decays to nothing, and the input is made smaller by
    the same factor, so that ``dt * B * x`` is what it was; the skip connection, which must see the true input, is corrected.
    Only those tokens are touched. Exact in float32 but for rounding; shapes as in ``selective_scan_fn``.
    """
    if documents.rows.numel() == 0:
        y: Any = ops.selective_scan_fn(x, dt, A, B, C, D, z=z, delta_bias=bias, delta_softplus=True)
        return y
    dtype = x.dtype
    where = documents.rows, documents.columns
    x, dt, z = (
        x.transpose(1, 2),
        dt.transpose(1, 2),
        z.transpose(1, 2),
    )  # (batch, length, d_inner), as they lie in memory
    if x.dtype == torch.float16:  # its smallest numbers are too large for what the input is divided by
        x, dt, z = x.float(), dt.float(), z.float()
        B, C = B.float(), C.float()
    first = x[where].float()  # (starts, d_inner)
    shrunk = first * F.softplus(dt[where].float() + bias) / _FORGET
    y = ops.selective_scan_fn(  # type: ignore[union-attr]
        x.index_put(where, shrunk.to(x.dtype)).transpose(1, 2),
        dt.index_put(where, (_FORGET - bias).to(dt.dtype).expand_as(first)).transpose(1, 2),
        A,
        B,
        C,
        D,
        z=z.transpose(1, 2),
        delta_bias=bias,
        delta_softplus=True,
    ).transpose(1, 2)
    skip = D * (first - shrunk) * F.silu(z[where].float())
    return y.index_put(where, skip.to(y.dtype), accumulate=True).transpose(1, 2).to(dtype)

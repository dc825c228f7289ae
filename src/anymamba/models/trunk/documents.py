"""Several documents in one row: where each starts, and a Mamba-1 scan that forgets at every start.

Convolution and Mamba-2's scan take ``seq_idx``; ``selective_scan_fn`` has no such argument, upstream and here.
"""

from __future__ import annotations

import functools
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
    """seq_idx: (batch, length) int32. starts: (batch, length), true where a document starts inside a row, not at a row's first token."""

    seq_idx: Tensor
    starts: Tensor

    @functools.cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """Rows and columns of the starts. Once per forward pass, for all layers; how many there are is a value, so not in a graph."""
        rows, columns = self.starts.nonzero(as_tuple=True)
        return rows, columns


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
    return Documents(seq_idx.to(torch.int32).contiguous(), starts)


def scan_documents(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor | None, documents: Documents
) -> Tensor:
    """``selective_scan_fn(..., delta_bias=bias, delta_softplus=True)`` in which no state passes from one document to the next.

    At a document's first token the step is made so long that the old state decays to nothing, and the input is made smaller by
    the same factor, so that ``dt * B * x`` is what it was; the skip connection, which must see the true input, is corrected.
    Only those tokens are touched. Exact in float32 but for rounding; shapes as in ``selective_scan_fn``.
    """
    if torch.compiler.is_compiling():
        return _scan_in_graph(x, dt, A, B, C, D, z, bias, documents)
    if documents.places[0].numel() == 0:
        y: Any = ops.selective_scan_fn(x, dt, A, B, C, D, z=z, delta_bias=bias, delta_softplus=True)
        return y
    dtype = x.dtype
    where = documents.places
    x, dt, z = (
        x.transpose(1, 2),
        dt.transpose(1, 2),
        z.transpose(1, 2),
    )  # (batch, length, d_inner), as they lie in memory
    if x.dtype == torch.float16:  # its smallest numbers are too large for what the input is divided by
        x, dt, z = x.float(), dt.float(), z.float()
        B, C = B.float(), C.float()
    first = x[where].float()  # (starts, d_inner)
    before = torch.zeros((), device=x.device) if bias is None else bias
    shrunk = first * F.softplus(dt[where].float() + before) / _FORGET
    y = ops.selective_scan_fn(  # type: ignore[union-attr]
        x.index_put(where, shrunk.to(x.dtype)).transpose(1, 2),
        dt.index_put(where, (_FORGET - before).to(dt.dtype).expand_as(first)).transpose(1, 2),
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


def _scan_in_graph(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor | None, documents: Documents
) -> Tensor:
    """The same for every token, chosen at the starts: shapes that do not depend on values, as a captured graph needs them."""
    starts = documents.starts.unsqueeze(2)  # (batch, length, 1)
    wide = torch.promote_types(x.dtype, torch.float32)
    u, dt, z = (t.transpose(1, 2).to(wide) for t in (x, dt, z))
    # softplus, of whose gradient graphs of torch 2.13 expect other strides than it has
    step = torch.logaddexp(dt if bias is None else dt + bias, torch.zeros_like(dt))
    shrunk = torch.where(starts, u * step / _FORGET, u)
    step = torch.where(starts, torch.full_like(step, _FORGET), step)
    y: Any = ops.selective_scan_fn(
        shrunk.transpose(1, 2), step.transpose(1, 2), A, B.to(wide), C.to(wide), D, z=z.transpose(1, 2)
    )
    skip = torch.where(starts, D * (u - shrunk) * F.silu(z), torch.zeros_like(u))
    return (y.transpose(1, 2) + skip).transpose(1, 2).to(x.dtype)

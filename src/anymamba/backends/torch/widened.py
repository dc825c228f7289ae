"""Matrix products of 16-bit and int8 numbers on a processor that multiplies only float32 fast.

Operands are widened to float32 a tile at a time, so that the tile is still in the cache when torch's float32 product reads it; sums are
float32, rounded once at the end. Widening costs about as much as reading: 3 % of a product with 512 rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TILE_BYTES = 4 * 2**20
"""Of a widened tile of weights: half of it and twice as much measured within 2 % (Zen 4, 768 to 2560 columns); small ones are slower."""

_BLOCK_ROWS = 1024
"""Rows of the left operand that are widened at once: the weights are widened once for each block."""


def product(a: Tensor, b: Tensor, dtype: torch.dtype, bias: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
    """(a @ b.T) * scale + bias, in ``dtype``. a: (rows, depth), b: (columns, depth), each of any floating dtype or int8, any strides;
    bias, scale: (columns,)."""
    rows, columns = a.shape[0], b.shape[0]
    with torch.autocast("cpu", enabled=False):
        if columns > 1 and b.stride(0) == 1 and b.dtype != torch.float32:
            return _finished(_along_depth(a, b), bias, scale).to(dtype)
        out = torch.empty(rows, columns, dtype=dtype)
        block_rows = _BLOCK_ROWS if a.stride(-1) == 1 else max(1, rows)
        for row in range(0, rows, block_rows):
            left = a[row : row + block_rows].float()
            for part in _tiles(columns, b):
                tile = torch.mm(left, b[part].float().t())
                out[row : row + block_rows, part] = _finished(tile, bias, scale, part)
    return out


def _along_depth(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.T in float32, summed over tiles of the depth, along which b lies in rows."""
    total = torch.zeros(a.shape[0], b.shape[0])
    for part in _tiles(b.shape[1], b.t()):
        total.addmm_(a[:, part].float(), b[:, part].float().t())
    return total


def _tiles(count: int, matrix: Tensor) -> list[slice]:
    """Of the matrix's rows; one where there is nothing to widen."""
    size = count if matrix.dtype == torch.float32 else max(1, _TILE_BYTES // (4 * max(1, matrix.shape[1])))
    return [slice(start, start + size) for start in range(0, count, max(1, size))]


def _finished(product: Tensor, bias: Tensor | None, scale: Tensor | None, part: slice = slice(None)) -> Tensor:
    if scale is not None:
        product *= scale[part]
    if bias is not None:
        product += bias[part]
    return product

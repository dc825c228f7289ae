"""Matrix products of 16-bit and int8 numbers on a processor that multiplies only float32 fast.

Operands are widened to float32 a tile at a time, so that the tile is still in the cache when the float32 product reads it; sums are
float32, rounded once at the end. Widening costs about as much as reading: 3 % of a product with 512 rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from anymamba.backends.torch import supports as supports
from anymamba.backends.torch.precision import wide_dtype
from anymamba.reference import blocks

_TILE_BYTES = 5 * 2**20
"""Of a widened tile of weights, at most: from 2 to 5 MiB measured within 2 % (Zen 4, 768 and 1536 columns), small and large ones slower."""

_ALIGNED = 64
"""Columns of a tile are a multiple of this: rows of the sums then begin on a cache line. With 1676 columns instead of 1728 MKL takes a
third longer (Zen 4)."""

_BLOCK_ROWS = 1024
"""Rows of the left operand that are widened at once: the weights are widened once for each block."""


def widened_product(
    a: Tensor, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """See anymamba.ops.widened_product. a (rows, depth), weight (columns, depth), any strides, or in blocks."""
    dtype = dtype or a.dtype
    if weight.dtype == torch.uint8:
        return _in_blocks(a, weight, bias, scale, dtype)
    if not _in_tiles(a, weight):
        wide = wide_dtype(a)
        return _finished(a.to(wide) @ weight.to(wide).t(), bias, scale).to(dtype)
    rows, columns, b = a.shape[0], weight.shape[0], weight
    with torch.autocast("cpu", enabled=False):
        if columns > 1 and b.stride(0) == 1 and b.dtype != torch.float32:
            return _finished(_along_depth(a, b), bias, scale).to(dtype)
        out = torch.empty(rows, columns, dtype=dtype)
        block_rows = min(_BLOCK_ROWS, rows) if a.stride(-1) == 1 else rows
        parts = _tiles(columns, b)
        weights, times = _Scratch(b, parts), _fastest_product()
        for row in range(0, rows, max(1, block_rows)):
            left, place = a[row : row + block_rows].float(), out[row : row + block_rows]
            for part in parts:
                place[:, part] = _finished(times(left, weights.widened(part)), bias, scale, part)
    return out


def _in_blocks(a: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    wide, depth = a.to(wide_dtype(a)), a.shape[1]
    size = max(1, _TILE_BYTES // (4 * max(1, depth)))
    with torch.autocast(a.device.type, enabled=False):
        tiles = [wide @ blocks.unpacked(rows, depth, wide.dtype).t() for rows in weight.split(size)]
    return _finished(torch.cat(tiles, dim=1), bias, scale).to(dtype)


def _in_tiles(a: Tensor, weight: Tensor) -> bool:
    return a.device.type == "cpu" and torch.float64 not in (a.dtype, weight.dtype)


@functools.cache
def _fastest_product() -> Callable[[Tensor, Tensor], Tensor]:
    """a @ b.T of float32: oneDNN's, where this torch has it, is a twentieth faster than MKL's (Zen 4, 512 rows) for operands in rows."""

    def by_onednn(a: Tensor, b: Tensor) -> Tensor:
        if not (a.is_contiguous() and b.is_contiguous()):
            return by_blas(a, b)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
        return y

    def by_blas(a: Tensor, b: Tensor) -> Tensor:
        return torch.mm(a, b.t())

    a, b = torch.arange(15.0).view(3, 5), torch.arange(10.0).view(2, 5)
    try:
        return by_onednn if torch.equal(by_onednn(a, b), by_blas(a, b)) else by_blas
    except (AttributeError, RuntimeError):
        return by_blas


class _Scratch:
    """One tile of rows of a matrix in float32 after the other, in the same memory."""

    def __init__(self, matrix: Tensor, parts: list[slice]) -> None:
        self._matrix = matrix
        self._wide = matrix.dtype == torch.float32 or matrix.stride(-1) != 1
        self._memory = torch.empty(0 if self._wide or not parts else len(range(matrix.shape[0])[parts[0]]), matrix.shape[1])

    def widened(self, part: slice) -> Tensor:
        rows = self._matrix[part]
        return rows.float() if self._wide else self._memory[: rows.shape[0]].copy_(rows)


def _along_depth(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.T in float32, summed over tiles of the depth, along which b lies in rows."""
    total = torch.zeros(a.shape[0], b.shape[0])
    parts = _tiles(b.shape[1], b.t())
    weights = _Scratch(b.t(), parts)
    for part in parts:
        total.addmm_(a[:, part].float(), weights.widened(part))
    return total


def _tiles(count: int, matrix: Tensor) -> list[slice]:
    """Of the matrix's rows, as equal as can be; one where there is nothing to widen."""
    most = count if matrix.dtype == torch.float32 else max(1, _TILE_BYTES // (4 * max(1, matrix.shape[1])))
    size = _up(-(-count // max(1, -(-count // max(1, most)))))
    return [slice(start, start + size) for start in range(0, count, size)]


def _up(count: int) -> int:
    return max(1, -(-count // _ALIGNED)) * _ALIGNED


def _finished(product: Tensor, bias: Tensor | None, scale: Tensor | None, part: slice = slice(None)) -> Tensor:
    if scale is not None:
        product *= scale[part]
    if bias is not None:
        product += bias[part]
    return product

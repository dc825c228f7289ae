"""Weights in blocks: 32 neighbours of a row share a scale, and lie in memory byte by byte as GGUF files have them.

A matrix is a uint8 tensor (rows, bytes of a row). Which format it has follows from its bytes, for the formats' blocks differ in length:

    q8_0  34 bytes: scale d, 32 signed bytes q          w = d q
    q4_0  18 bytes: scale d, 16 bytes of two q each     w = d (q - 8)
    q4_1  20 bytes: scale d, minimum m, 16 bytes        w = d q + m

d and m are float16; of four-bit numbers q, those of the first 16 weights are in the low halves of the bytes. Our own four-bit format is
q4_1.
"""

from __future__ import annotations

import torch
from torch import Tensor

SIZE = 32
"""Weights of a block."""

BYTES = {"q8_0": 34, "q4_0": 18, "q4_1": 20}
"""Of a block, by format."""


def row_bytes(name: str, columns: int) -> int:
    return columns // SIZE * BYTES[name]


def name_of(weight: Tensor, columns: int) -> str:
    """The format of a matrix with so many columns; the name of its dtype where it is not in blocks. Raises ValueError for bytes that are
    no format's."""
    if weight.dtype != torch.uint8:
        return str(weight.dtype).removeprefix("torch.")
    for name in BYTES:
        if columns % SIZE == 0 and weight.shape[1] == row_bytes(name, columns):
            return name
    raise ValueError(f"{weight.shape[1]} bytes are no row of {columns} weights in blocks")


def unpacked(weight: Tensor, columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix (rows, columns) of a matrix in blocks; computed in float32 at least."""
    name, rows = name_of(weight, columns), weight.shape[0]
    wide = torch.promote_types(dtype, torch.float32)
    parts = weight.reshape(rows, columns // SIZE, BYTES[name])
    scale = _halves(parts, 0).to(wide)
    if name == "q8_0":
        values = parts[..., 2:].view(torch.int8).to(wide) * scale
    else:
        start = 4 if name == "q4_1" else 2
        numbers = torch.cat([parts[..., start:] & 15, parts[..., start:] >> 4], dim=-1).to(wide)
        values = (numbers - 8) * scale if name == "q4_0" else numbers * scale + _halves(parts, 2).to(wide)
    return values.reshape(rows, columns).to(dtype)


def packed(matrix: Tensor, name: str) -> Tensor:
    """A matrix (rows, columns) in blocks, each weight rounded to the nearest number of its block. The scales are those of GGUF's own
    converter; the minimum of q4_1 is the block's least weight."""
    rows, columns = matrix.shape
    values = matrix.float().reshape(rows, columns // SIZE, SIZE)
    if name == "q4_1":
        low, high = values.amin(-1, keepdim=True).half(), values.amax(-1, keepdim=True)
        return rounded(values, name, ((high - low.float()) / 15).half(), low)
    if name == "q8_0":
        return rounded(values, name, (values.abs().amax(-1, keepdim=True) / 127).half())
    # the weight of the largest magnitude becomes -8, which has no positive twin
    largest = values.gather(-1, values.abs().argmax(-1, keepdim=True))
    return rounded(values, name, (largest / -8).half())


def rounded(values: Tensor, name: str, scale: Tensor, low: Tensor | None = None) -> Tensor:
    """values (rows, blocks, 32) in blocks of these scales (and minima, of q4_1), float16 (rows, blocks, 1): the nearest numbers."""
    step = scale.float()
    numbers = (values if low is None else values - low.float()) * torch.where(step == 0, 0.0, 1 / step)
    if name == "q8_0":
        whole = numbers.round().clamp(-127, 127).to(torch.int8).view(torch.uint8)
        return torch.cat([_bytes(scale), whole], dim=-1).flatten(1)
    whole = (numbers + (8 if low is None else 0)).round().clamp(0, 15).to(torch.uint8)
    head = [_bytes(scale)] if low is None else [_bytes(scale), _bytes(low)]
    return torch.cat([*head, whole[..., :16] | whole[..., 16:] << 4], dim=-1).flatten(1)


def _halves(parts: Tensor, start: int) -> Tensor:
    return parts[..., start : start + 2].contiguous().view(torch.float16)


def _bytes(halves: Tensor) -> Tensor:
    return halves.contiguous().view(torch.uint8)

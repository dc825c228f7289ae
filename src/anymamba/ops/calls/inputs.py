"""Tensors that the builders of inputs are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.backends.opspec import Arguments, Random

BORDERS = 261
"""Tokens that cross the borders of chunks of 16 to 256 tokens, and end just after one."""


def sequence(random: Random, batch: int, length: int, *shape: int, layout: str = "channels") -> Tensor:
    """(batch, *shape, length). layout, what lies side by side in memory: "channels"; "wide", channels inside a wider row, like a half
    of xz; "length". "rows": (batch, length, *shape) itself, for a view of the caller."""
    if layout == "length":
        return random(batch, *shape, length)
    rows = random(batch, length, *shape)
    if layout == "rows":
        return rows
    if layout == "wide":
        rows = torch.cat([rows, rows], dim=-1)[..., : rows.shape[-1]]
    return rows.movedim(1, -1)


def documents(batch: int, length: int, tokens: int, shift: int) -> Tensor:
    """seq_idx of rows that are packed with documents of so many tokens, cut at other places in every row."""
    ids = torch.arange(length).div(tokens, rounding_mode="floor").int()
    return torch.stack([ids.roll(-shift * row).cummax(0).values for row in range(batch)])


def chosen(inputs: Arguments, without: tuple[str, ...]) -> Arguments:
    """Those that are not left out."""
    return {name: value for name, value in inputs.items() if name not in without}

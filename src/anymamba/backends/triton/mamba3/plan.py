"""How Mamba-3's kernels share out a head and a sequence on a device: a rule, not a search."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from anymamba.backends.triton.launch import is_nvidia, power_of_2


@dataclass(frozen=True)
class Mamba3Plan:
    """q: tokens of a chunk. ranks: rows that a token takes. block_p: the part of headdim that a program holds; block_n: d_state.
    registers: limit a lane, told to NVIDIA's assembler."""

    q: int
    ranks: int
    block_p: int
    block_n: int
    warps: int
    stages: int
    registers: int | None

    @property
    def rows(self) -> int:
        return self.q * self.ranks


def forward_plan(
    rank: int, headdim: int, d_state: int, wide: bool, few_heads: bool, last: bool, device: torch.device
) -> Mamba3Plan:  # fmt: skip
    """wide: float32 operands. few_heads: there are too few to fill a device. last: the states after the last tokens are asked for."""
    # a part of a head computes the scores again, and keeps its own state, of which 64 x 128 numbers would not fit in registers
    most = 16 if wide and last and d_state > 64 else 32 if few_heads or d_state > 64 else 64
    rows = 16 if wide or rank > 1 or last else 32
    return _plan(rows, min(max(power_of_2(headdim), 16), most), rank, d_state, device)


def backward_plan(rank: int, headdim: int, d_state: int, wide: bool, device: torch.device) -> Mamba3Plan:
    return _plan(16 if wide or rank > 1 or headdim > 64 else 32, max(power_of_2(headdim), 16), rank, d_state, device)


def _plan(rows: int, block_p: int, rank: int, d_state: int, device: torch.device) -> Mamba3Plan:
    ranks = power_of_2(rank)
    block_n = max(power_of_2(d_state), 16)
    rows = max(rows, ranks)
    return Mamba3Plan(max(rows // ranks, 1), ranks, block_p, block_n, 8, 1, 255 if is_nvidia(device) else None)

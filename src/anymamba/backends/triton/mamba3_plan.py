"""How Mamba-3's kernels share out a head and a sequence on a device: a rule, not a search."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from anymamba.backends.triton.launch import is_nvidia, power_of_2, processors


@dataclass(frozen=True)
class Plan:
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


def forward_plan(sequences: int, heads: int, rank: int, headdim: int, d_state: int, wide: bool, device: torch.device) -> Plan:
    """wide: float32 operands."""
    block_p = max(power_of_2(headdim), 16)
    # a head is cut where there are too few of them to fill the device: each part computes the scores again, and keeps its own state
    while block_p > 32 and sequences * heads * (headdim // block_p) < processors(device):
        block_p //= 2
    return _plan(16 if wide else 64, min(block_p, 64), rank, d_state, wide, device)


def backward_plan(rank: int, headdim: int, d_state: int, wide: bool, device: torch.device) -> Plan:
    return _plan(16 if wide else 32, max(power_of_2(headdim), 16), rank, d_state, wide, device)


def _plan(rows: int, block_p: int, rank: int, d_state: int, wide: bool, device: torch.device) -> Plan:
    ranks = power_of_2(rank)
    block_n = max(power_of_2(d_state), 16)
    rows = max(rows, ranks)
    return Plan(max(rows // ranks, 1), ranks, block_p, block_n, 8, 1, 255 if is_nvidia(device) else None)

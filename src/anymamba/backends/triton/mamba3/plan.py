"""How Mamba-3's kernels share out a head and a sequence on a device: a rule, not a search. Measured on an H200 with heads of 64 x 128."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from anymamba.backends.triton.launch import is_nvidia, power_of_2


@dataclass(frozen=True)
class Mamba3Plan:
    """q: tokens of a chunk. ranks: rows that a token takes. block_p: the part of headdim that a program holds; block_n: of d_state.
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
    most = 16 if wide and last and d_state > 64 else 32 if few_heads or wide or rank > 1 or headdim > 64 else 64
    block_p = min(_block(headdim), most)
    if wide:
        return _plan(16, block_p, rank, d_state, 8, 1, device)
    if rank > 1:
        return _plan(64, block_p, rank, d_state, 8, 2, device)
    return _plan(32, block_p, rank, d_state, 8 if last or headdim > 64 else 4, 2, device)


def backward_plan(rank: int, headdim: int, d_state: int, wide: bool, device: torch.device) -> Mamba3Plan:
    """Of the kernels that take chunks side by side."""
    if wide or headdim > 64:
        return _plan(16, _block(headdim), rank, d_state, 8, 1, device)
    if rank > 1:
        return _plan(64, _block(headdim), rank, d_state, 8, 1, device)
    return _plan(32, _block(headdim), rank, d_state, 4, 1, device)


def walks_of(plan: Mamba3Plan, few_heads: bool, wide: bool, whole: bool, device: torch.device) -> Mamba3Plan:
    """Of the walks over the chunks of a backward plan: the one that leaves states takes a part of headdim, the one that leaves their
    gradients a part of d_state. whole: a state was handed in, whose gradients need all of it."""
    parts = 2 if (few_heads or plan.ranks > 1) and not whole else 1
    # two programs on a multiprocessor hide more than the registers that they spill cost
    registers = 255 if wide or plan.block_p > 64 or plan.rows > 32 else 128
    return replace(
        plan, block_p=max(plan.block_p // parts, 16), block_n=max(plan.block_n // parts, 16), warps=8, stages=1 if wide else 2,
        registers=registers if is_nvidia(device) else None,
    )  # fmt: skip


def _block(headdim: int) -> int:
    return max(power_of_2(headdim), 16)


def _plan(rows: int, block_p: int, rank: int, d_state: int, warps: int, stages: int, device: torch.device) -> Mamba3Plan:
    ranks = power_of_2(rank)
    block_n = max(power_of_2(d_state), 16)
    rows = max(rows, ranks)
    return Mamba3Plan(max(rows // ranks, 1), ranks, block_p, block_n, warps, stages, 255 if is_nvidia(device) else None)

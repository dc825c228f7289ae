"""Block sizes of the selective scan on a device: a rule, not a search, so that the first call compiles one kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from anymamba.backends.triton.launch import lanes, matrix_unit_for_float32, power_of_2, processors


@dataclass(frozen=True)
class ScanPlan:
    """block_n: d_state, rounded up. block_d: channels of a program. tile: time steps whose loads are in flight together.
    chunks: programs that share the length of a sequence. every: steps between the states that are kept for backward.
    dot: sum over channels on the matrix unit. wide: turn B and C into float32 beforehand, which spares every lane the conversion.
    registers: upper limit a lane, for more warps at a time."""

    block_n: int
    block_d: int
    warps: int
    tile: int
    chunks: int
    every: int
    dot: bool = False
    wide: bool = False
    registers: int | None = None


def forward_plan(batch: int, channels: int, length: int, d_state: int, device: torch.device, precise: bool = False) -> ScanPlan:
    """precise: float32 inputs, whose decays take more registers."""
    block_n, block_d = _blocks(channels, d_state, device)
    tile = 2 if precise and block_n > 16 else 4
    return ScanPlan(block_n, block_d, 1, tile, _chunks(batch, channels, length, block_d, device), 32)


def backward_plan(batch: int, channels: int, length: int, d_state: int, device: torch.device, precise: bool = False) -> ScanPlan:
    """precise: as in forward_plan."""
    block_n, block_d = _blocks(channels, d_state, device)
    chunks = _chunks(batch, channels, length, block_d, device)
    dot = matrix_unit_for_float32(device) and block_n >= 16 and block_d >= 16
    # float32 sums over channels take registers: two warps and a step at a time, or they would spill
    single = dot or precise or block_n * block_d < 64
    return ScanPlan(block_n, block_d, 2 if dot else 1, 1 if single else 2, chunks, 32, dot, wide=True)


def _blocks(channels: int, d_state: int, device: torch.device) -> tuple[int, int]:
    """A lane holds 16 states: of one channel up to d_state 16, beyond that lanes share a channel."""
    block_n, width = power_of_2(max(d_state, 2)), lanes(device)
    block_d = max(min(width, 16 * width // block_n), 2)
    return block_n, min(block_d, max(power_of_2(channels), 2))


def _chunks(batch: int, channels: int, length: int, block_d: int, device: torch.device) -> int:
    """As many as give every multiprocessor eight warps, where a chunk keeps at least 128 steps: chunks cost a second pass."""
    programs = batch * -(-channels // block_d)
    wanted = 8 * processors(device)
    if programs * 2 > wanted:
        return 1
    return max(min(-(-wanted // programs), length // 128), 1)

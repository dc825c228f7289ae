"""Chunk lengths and block sizes of Mamba-2's scan on a device: a rule, not a search."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from anymamba.backends.triton.launch import is_nvidia, power_of_2, processors, shared_memory


@dataclass(frozen=True)
class SsdPlan:
    """q: tokens of a chunk. heads: heads that a program of the chunk kernel handles one after another. walk_p, walk_n: the part of
    the state (headdim, d_state) that a program of the walk holds. block_p, of the backward: the part of headdim that a program takes
    at a time. block_k: states that a product over d_state takes at a time. registers: limit a lane of the
    backward and of walks, told to NVIDIA's assembler."""

    q: int
    heads: int
    warps: int
    stages: int
    walk_p: int
    walk_n: int
    walk_warps: int
    walk_stages: int
    block_p: int = 64
    block_k: int = 256
    registers: int | None = None


def forward_plan(
    batch: int, length: int, heads: int, heads_per_group: int, headdim: int, d_state: int, wide: bool, device: torch.device,
    gated: bool = False, documents: bool = False,
) -> SsdPlan:  # fmt: skip
    """wide: float32 operands. gated: z. documents: seq_idx."""
    plain = not gated and not documents  # else what goes with a chunk of 128 would not fit in registers
    # a chunk of 128 halves the states that go through memory; few heads a group spread badly over it
    roomy = shared_memory(device) >= 160 * 1024  # sm_80, sm_90, sm_100; not sm_86, sm_89, sm_120, nor AMD
    small = roomy and headdim <= 64 and d_state <= 128 and heads_per_group > 32 and not wide and plain
    block_p, block_n = power_of_2(headdim), power_of_2(d_state)
    large = block_p > 64 or block_n > 128
    q = 16 if wide else 128 if small else 64 if plain or not large else 32
    # three states of 128 x 256 do not fit in 227 KiB
    stages = 3 if roomy and block_p * block_n <= 128 * 128 else 2
    plan = _plan(q, 16, 4, stages, batch, length, heads, heads_per_group, headdim, d_state, wide, device)
    if not plain and not large and block_n <= 16:
        plan = replace(plan, stages=2)  # what a third stage loads of z spills
    if not roomy:
        plan = replace(plan, walk_stages=2)  # a third would spill on sm_120
    if block_p * block_n > 128 * 128 and shared_memory(device) < 96 * 1024:
        plan = replace(plan, stages=1)  # two states of 128 x 256 do not fit in AMD's 64 KiB
    if gated != documents and not wide and 32 < headdim <= 64 < d_state <= 128:
        # Programs of four warps hide each other's wait for z, two on a multiprocessor: 1.4 times as fast on an H200 as one of eight. With z
        # further stages spill where the matrix unit takes its operands from shared memory. At other sizes they are not used: with 16
        # channels and 24 states what Triton 3.6 compiled was wrong on an H200, though its interpreter gives the right result
        return replace(plan, warps=4, stages=1 if gated and roomy else plan.stages)
    return plan if plain and not wide else replace(plan, warps=8)


def backward_plan(
    batch: int, length: int, heads: int, heads_per_group: int, headdim: int, d_state: int, wide: bool, device: torch.device
) -> SsdPlan:
    # Hopper's matrix unit takes 64 rows; elsewhere, for many states, and for the three products that a float32 one is made of,
    # registers limit q. With 16 channels and 32 states a part, what Triton 3.6 compiled for 64 rows gave a wrong gradient of x on an
    # H100, though its interpreter gives the right one: the unit is used at the sizes that were found right on the card, no others
    hopper = shared_memory(device) >= 200 * 1024 and headdim > 32 and 64 < d_state <= 128
    short = wide or (d_state > 128 and headdim <= 32)
    q, block_p = 16 if short else 64 if hopper else 32, 32 if wide else 64
    # of a product with 16 columns, every warp would hold all of the chunk's states in float32
    block_p = block_p if wide else min(block_p, max(power_of_2(headdim), 16))
    plan = _plan(q, 20, 4, 1 if wide else 2, batch, length, heads, heads_per_group, headdim, d_state, wide, device)
    return replace(
        plan, stages=1, block_p=block_p, warps=8 if wide or d_state > 128 else 4,
        walk_stages=2 if wide else 3,
    )  # fmt: skip


def _plan(
    q: int,
    most: int,
    programs: int,
    stages: int,
    batch: int,
    length: int,
    heads: int,
    heads_per_group: int,
    headdim: int,
    d_state: int,
    wide: bool,
    device: torch.device,
) -> SsdPlan:
    q = q if length > 16 else 16
    chunks = -(-length // q) * batch
    # several heads a program spare the product C B^T, as long as every multiprocessor still has a few programs
    together = max(min(heads_per_group, most, chunks * heads // (programs * processors(device))), 1)
    # a program with fewer heads than the others was measured three times slower than equal shares
    together = next(share for share in range(together, 0, -1) if heads_per_group % share == 0)
    block_p, block_n = max(power_of_2(headdim), 16), max(power_of_2(d_state), 16)
    walk_p, walk_n = min(block_p, 64), min(block_n, 64)
    while batch * heads * (block_p // walk_p) * (block_n // walk_n) < 1.5 * processors(device) and walk_n > 32:
        walk_n //= 2
    # walks that leave the device half empty hide more of the latency themselves
    few = batch * heads * (block_p // walk_p) * (block_n // walk_n) < 4 * processors(device)
    # four warps spill registers where the matrix unit takes its operands from them
    warps = 8 if q > 64 or (stages < 3 and block_p * block_n >= 64 * 64) else 4
    walk_stages = 3 if (few or stages == 1) and not wide else 2
    # the three products that a float32 one is made of leave registers for few states at a time
    block_k = min(block_n, 32 if wide else 256)
    # left to itself, the assembler of NVIDIA aims at many programs a multiprocessor and spills a few bytes for it
    limit_registers = (wide or q <= 32) and is_nvidia(device)
    limit = 255 if limit_registers else None
    return SsdPlan(q, together, warps, 1 if wide else stages, walk_p, walk_n, 4, walk_stages, block_k=block_k, registers=limit)

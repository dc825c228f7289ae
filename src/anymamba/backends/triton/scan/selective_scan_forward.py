"""The Mamba-1 selective scan, forward.

A program owns a block of channels of one sequence (or of one chunk of it) and walks through time with all d_state states of its
channels in registers: with a block of 32 channels a warp, a lane owns a channel, and no step exchanges anything between lanes.
d_state beyond 16 narrows the block, so that a channel's states spread over more lanes.

Where batch x channels cannot fill the device, the length is cut into chunks: a first pass leaves the state that each chunk
adds and the sum of its step sizes, from which the second pass starts every chunk at the right state:
h_end = exp(A * sum(dt)) * h_start + h_added. In a chunk in which a document starts that sum is infinity: nothing passes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from anymamba.backends.triton.elementary import LOG2E, decay_of, silu, softplus
from anymamba.backends.triton.scan.selective_scan_memory import (
    PADDING,
    START,
    load_mark,
    load_row,
    load_states,
    store_row,
)


@triton.jit
def pass_chunk(h, total, A, PRECISE: tl.constexpr, HAS_MARKS: tl.constexpr):
    """What is left of a state, or of its gradient, behind a chunk whose step sizes sum up to ``total``."""
    rest = decay_of(total[None, :] * A, PRECISE) * h
    if HAS_MARKS:
        rest = tl.where(total[None, :] == float("inf"), 0.0, rest)
    return rest


@triton.jit(do_not_specialize=["a_d", "a_n", "s_d", "s_n", "i_b", "i_d", "i_n"])
def selective_scan_forward_kernel(
    u_ptr, dt_ptr, z_ptr, B_ptr, C_ptr, A_ptr, D_ptr, bias_ptr, initial_ptr, marks_ptr, out_ptr, last_ptr, checkpoint_ptr, added_ptr,
    sum_dt_ptr, i_b, i_d, i_n, u_b, u_l, dt_b, dt_l, z_b, z_l, out_b, out_l, B_b, B_g, B_l, C_b, C_g, C_l, a_d, a_n, s_d, s_n,
    length, channels, group, chunk, steps,
    N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr, K: tl.constexpr,
    OUTPUT: tl.constexpr, CHUNKS: tl.constexpr, SOFTPLUS: tl.constexpr,
    HAS_Z: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_LAST: tl.constexpr, HAS_CHECKPOINT: tl.constexpr,
    HAS_INITIAL: tl.constexpr, HAS_MARKS: tl.constexpr, FULL: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Grid: (ngroups * blocks in a group, chunks, batch).

    u, dt, z, out: (batch, length, channels), channel stride 1. B, C: (batch, ngroups, length, N), state stride 1.
    A: (channels, N). group: channels in a group. chunk: time steps a program walks; steps: upper bound of checkpoints.
    last: (batch, channels, N), strides batch contiguous. checkpoint: (batch, steps, N, channels), the state before each K-th step.
    initial: (batch, channels, N), the state before the first token. marks: (batch, length), of selective_scan_documents.
    added: (batch, chunks, N, channels); sum_dt: (batch, chunks, channels). s_d, s_n: strides within these, 1 and channels.
    """
    PRECISE: tl.constexpr = u_ptr.dtype.element_ty == tl.float32
    blocks = tl.cdiv(group, BLOCK_D)
    g = tl.program_id(0) // blocks
    c = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    in_group = (tl.program_id(0) % blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    d = g * group + in_group
    ok = in_group < group

    # [BLOCK_N, BLOCK_D] tiles are read through flat indices: a lane then owns channels, whatever the layout in memory is
    flat = tl.arange(0, BLOCK_N * BLOCK_D)
    flat_n = flat // BLOCK_D
    flat_in_group = (tl.program_id(0) % blocks) * BLOCK_D + flat % BLOCK_D
    flat_d = (g * group + flat_in_group).to(tl.int64)
    flat_ok = (flat_in_group < group) & (flat_n < N)
    state_offset = flat_d * s_d + flat_n.to(tl.int64) * s_n

    A = tl.load(A_ptr + flat_d * a_d + flat_n * a_n, mask=flat_ok, other=0.0).to(tl.float32) * LOG2E
    A = tl.reshape(A, [BLOCK_N, BLOCK_D])
    if HAS_D:
        D = tl.load(D_ptr + d, mask=ok, other=0.0).to(tl.float32)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + d, mask=ok, other=0.0).to(tl.float32)

    h = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    if HAS_INITIAL:
        initial = tl.load(initial_ptr + b * i_b + flat_d * i_d + flat_n * i_n, mask=flat_ok, other=0.0).to(tl.float32)
        h = tl.reshape(initial, [BLOCK_N, BLOCK_D])
    if CHUNKS and OUTPUT:
        for earlier in range(0, c):
            row = b * tl.num_programs(1) + earlier
            total = tl.load(sum_dt_ptr + row * channels + d, mask=ok, other=0.0)
            added = tl.load(added_ptr + row * N * channels + state_offset, mask=flat_ok, other=0.0)
            h = pass_chunk(h, total, A, PRECISE, HAS_MARKS) + tl.reshape(added, [BLOCK_N, BLOCK_D])

    start = c * chunk
    end = tl.minimum(start + chunk, length)
    first = start.to(tl.int64)
    u_ptr += b * u_b + first * u_l + d
    dt_ptr += b * dt_b + first * dt_l + d
    B_ptr += b * B_b + g.to(tl.int64) * B_g + first * B_l
    if HAS_MARKS:
        marks_ptr += b * length + first
    if OUTPUT:
        C_ptr += b * C_b + g.to(tl.int64) * C_g + first * C_l
        out_ptr += b * out_b + first * out_l + d
        if HAS_Z:
            z_ptr += b * z_b + first * z_l + d
    total_dt = tl.zeros([BLOCK_D], tl.float32)

    for t0 in range(start, end, TILE):
        if HAS_CHECKPOINT:  # noqa: SIM102 - a constant of the compilation, unlike the condition inside
            if t0 % K == 0:
                row = b * steps + t0 // K
                tl.store(checkpoint_ptr + row * N * channels + state_offset, tl.reshape(h, [BLOCK_N * BLOCK_D]), mask=flat_ok)
        # all loads of the tile come before its first use, so that they are in flight together
        us = ()
        dts = ()
        zs = ()
        for i in tl.static_range(TILE):
            live = in_group < tl.where(t0 + i < end, group, 0)
            us += (load_row(u_ptr + i * u_l, live, FULL),)
            dts += (load_row(dt_ptr + i * dt_l, live, FULL),)
            if OUTPUT and HAS_Z:
                zs += (load_row(z_ptr + i * z_l, live, FULL),)
        for i in tl.static_range(TILE):
            inside = t0 + i < end
            B = load_states(B_ptr + i * B_l, inside, N, BLOCK_N, FULL, PAIRS)
            u = us[i]
            dt = dts[i]
            if HAS_BIAS:
                dt += bias
            if SOFTPLUS:
                dt = softplus(dt)
            if not FULL:
                dt = tl.where(inside, dt, 0.0)
            if HAS_MARKS:
                mark = load_mark(marks_ptr + i, inside, FULL)
                before = tl.where(mark == START, 0.0, h)
                after = decay_of(dt[None, :] * A, PRECISE) * before + (dt * u)[None, :] * B[:, None]
                h = tl.where(mark == PADDING, before, after)
            else:
                h = decay_of(dt[None, :] * A, PRECISE) * h + (dt * u)[None, :] * B[:, None]
            if OUTPUT:
                C = load_states(C_ptr + i * C_l, inside, N, BLOCK_N, FULL, PAIRS)
                y = tl.sum(h * C[:, None], axis=0)
                if HAS_D:
                    y += D * u
                if HAS_Z:
                    y *= silu(zs[i])
                if HAS_MARKS:
                    y = tl.where(mark == PADDING, 0.0, y)
                store_row(out_ptr + i * out_l, y, in_group < tl.where(inside, group, 0), FULL)
            else:
                if HAS_MARKS:
                    dt = tl.where(mark == PADDING, 0.0, tl.where(mark == START, float("inf"), dt))
                total_dt += dt
        u_ptr += TILE * u_l
        dt_ptr += TILE * dt_l
        B_ptr += TILE * B_l
        if HAS_MARKS:
            marks_ptr += TILE
        if OUTPUT:
            C_ptr += TILE * C_l
            out_ptr += TILE * out_l
            if HAS_Z:
                z_ptr += TILE * z_l

    if OUTPUT:
        if HAS_LAST and c == tl.num_programs(1) - 1:
            tl.store(last_ptr + b * channels * N + flat_d * N + flat_n, tl.reshape(h, [BLOCK_N * BLOCK_D]), mask=flat_ok)
    else:
        row = b * tl.num_programs(1) + c
        tl.store(added_ptr + row * N * channels + state_offset, tl.reshape(h, [BLOCK_N * BLOCK_D]), mask=flat_ok)
        tl.store(sum_dt_ptr + row * channels + d, total_dt, mask=ok)

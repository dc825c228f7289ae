"""The Mamba-1 selective scan, backward.

With g_t the gradient that reaches the state h_t, the recurrence runs in reverse: g_t = C_t dy_t + a_{t+1} g_{t+1}, a_t = exp(dt_t A).
The forward pass left the state before every K-th step. A program takes the windows of K steps from last to first; inside one it
first runs forward again and leaves the state before each tile of a few steps in scratch memory (its own, so it stays in the
cache), then takes the tiles from last to first with the tile's states and decays in registers.

dB and dC are sums over channels. A program sums its own block and writes it to its own place; the blocks are added up by a
second, deterministic reduction. Within the program, DOT lets the matrix unit sum over lanes (a product with a column of ones).
"""

from __future__ import annotations

import triton
import triton.language as tl

from anymamba.backends.triton.elementary import LN2, LOG2E, decay_of, sigmoid, softplus
from anymamba.backends.triton.scan.selective_scan_forward import pass_chunk
from anymamba.backends.triton.scan.selective_scan_memory import (
    PADDING,
    START,
    load_mark,
    load_row,
    load_states,
    store_row,
)


@triton.jit
def step_size(x, SOFTPLUS: tl.constexpr):
    if SOFTPLUS:
        return softplus(x)
    else:
        return x


@triton.jit(do_not_specialize=["a_d", "a_n", "s_d", "s_n"])
def selective_scan_reverse_kernel(
    dt_ptr, z_ptr, dout_ptr, C_ptr, A_ptr, bias_ptr, marks_ptr, added_ptr, sum_dt_ptr,
    dt_b, dt_l, z_b, z_l, dout_b, dout_l, C_b, C_g, C_l, a_d, a_n, s_d, s_n, length, channels, group, chunk,
    N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MARKS: tl.constexpr, FULL: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """First pass when the length is cut into chunks: the gradient that a chunk adds to the state before it, and its sum of step
    sizes. Grid and layouts as in selective_scan_forward_kernel."""
    PRECISE: tl.constexpr = dout_ptr.dtype.element_ty == tl.float32
    blocks = tl.cdiv(group, BLOCK_D)
    g_index = tl.program_id(0) // blocks
    c = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    in_group = (tl.program_id(0) % blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    d = g_index * group + in_group
    ok = in_group < group
    flat = tl.arange(0, BLOCK_N * BLOCK_D)
    flat_n = flat // BLOCK_D
    flat_in_group = (tl.program_id(0) % blocks) * BLOCK_D + flat % BLOCK_D
    flat_d = (g_index * group + flat_in_group).to(tl.int64)
    flat_ok = (flat_in_group < group) & (flat_n < N)
    A = tl.load(A_ptr + flat_d * a_d + flat_n * a_n, mask=flat_ok, other=0.0).to(tl.float32) * LOG2E
    A = tl.reshape(A, [BLOCK_N, BLOCK_D])
    if HAS_BIAS:
        bias = tl.load(bias_ptr + d, mask=ok, other=0.0).to(tl.float32)

    start = c * chunk
    end = tl.minimum(start + chunk, length)
    tiles = tl.cdiv(end - start, TILE)
    first = (start + (tiles - 1) * TILE).to(tl.int64)
    dt_ptr += b * dt_b + first * dt_l + d
    dout_ptr += b * dout_b + first * dout_l + d
    C_ptr += b * C_b + g_index.to(tl.int64) * C_g + first * C_l
    if HAS_MARKS:
        marks_ptr += b * length + first
    if HAS_Z:
        z_ptr += b * z_b + first * z_l + d
    g = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    total_dt = tl.zeros([BLOCK_D], tl.float32)
    for tile in range(0, tiles):
        t0 = start + (tiles - 1 - tile) * TILE
        dts = ()
        douts = ()
        zs = ()
        for i in tl.static_range(TILE):
            live = in_group < tl.where(t0 + i < end, group, 0)
            dts += (load_row(dt_ptr + i * dt_l, live, FULL),)
            douts += (load_row(dout_ptr + i * dout_l, live, FULL),)
            if HAS_Z:
                zs += (load_row(z_ptr + i * z_l, live, FULL),)
        for i in tl.static_range(TILE - 1, -1, -1):
            inside = t0 + i < end
            C = load_states(C_ptr + i * C_l, inside, N, BLOCK_N, FULL, PAIRS)
            dt = dts[i]
            if HAS_BIAS:
                dt += bias
            dt = step_size(dt, SOFTPLUS)
            if not FULL:
                dt = tl.where(inside, dt, 0.0)
            dy = douts[i]
            if HAS_Z:
                dy *= zs[i] * sigmoid(zs[i])
            earlier = (g + dy[None, :] * C[:, None]) * decay_of(dt[None, :] * A, PRECISE)
            if HAS_MARKS:
                mark = load_mark(marks_ptr + i, inside, FULL)
                g = tl.where(mark == PADDING, g, tl.where(mark == START, 0.0, earlier))
                dt = tl.where(mark == PADDING, 0.0, tl.where(mark == START, float("inf"), dt))
            else:
                g = earlier
            total_dt += dt
        dt_ptr -= TILE * dt_l
        dout_ptr -= TILE * dout_l
        C_ptr -= TILE * C_l
        if HAS_MARKS:
            marks_ptr -= TILE
        if HAS_Z:
            z_ptr -= TILE * z_l
    row = b * tl.num_programs(1) + c
    state_offset = flat_d * s_d + flat_n.to(tl.int64) * s_n
    tl.store(added_ptr + row * N * channels + state_offset, tl.reshape(g, [BLOCK_N * BLOCK_D]), mask=flat_ok)
    tl.store(sum_dt_ptr + row * channels + d, total_dt, mask=ok)


@triton.jit
def store_channel_sums(
    ptr, x, live, N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr
):
    """Sums x (BLOCK_N, BLOCK_D) over its channels and stores the N sums at ptr. The matrix unit cuts a float32 off after 10 bits: all of
    a gradient would be 3.6e-4 too small, had x not been rounded there before."""
    n = tl.arange(0, BLOCK_N)
    if DOT:
        column = tl.arange(0, 8)
        ones = tl.where((column == 0)[None, :] & (tl.arange(0, BLOCK_D) >= 0)[:, None], 1.0, 0.0)
        if PRECISION == "tf32":
            near = ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
            x = tl.where(tl.abs(x) < 1e38, near, x)  # infinity and NaN stay what they are
        sums = tl.dot(x, ones, input_precision=PRECISION)
        tl.store(ptr + n[:, None] + column[None, :], sums, mask=(n < tl.where(live, N, 0))[:, None] & (column == 0)[None, :])
    else:
        tl.store(ptr + n, tl.sum(x, axis=1), mask=n < tl.where(live, N, 0))


@triton.jit(do_not_specialize=["a_d", "a_n", "s_d", "s_n"])
def selective_scan_backward_kernel(
    u_ptr, dt_ptr, z_ptr, dout_ptr, B_ptr, C_ptr, A_ptr, D_ptr, bias_ptr, marks_ptr, checkpoint_ptr, added_ptr, sum_dt_ptr,
    scratch_ptr, du_ptr, ddt_ptr, dz_ptr, dA_ptr, dD_ptr, dbias_ptr, dB_ptr, dC_ptr, dinitial_ptr,
    u_b, u_l, dt_b, dt_l, z_b, z_l, dout_b, dout_l, B_b, B_g, B_l, C_b, C_g, C_l, a_d, a_n, s_d, s_n,
    du_b, du_l, ddt_b, ddt_l, dz_b, dz_l, length, channels, group, chunk, steps,
    N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr, K: tl.constexpr,
    CHUNKS: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_Z: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_INITIAL: tl.constexpr, HAS_MARKS: tl.constexpr, FULL: tl.constexpr, PAIRS: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: (ngroups * blocks in a group, chunks, batch); chunk is a multiple of K. Layouts as in selective_scan_forward_kernel.

    scratch: (programs, K / TILE, BLOCK_N * BLOCK_D). dA: (batch, chunks, N, channels); dD, dbias: (batch, chunks, channels);
    dB, dC: (blocks in a group, batch, ngroups, length, N), all float32 partial sums. dinitial: (batch, channels, N), contiguous.
    """
    PRECISE: tl.constexpr = u_ptr.dtype.element_ty == tl.float32
    blocks = tl.cdiv(group, BLOCK_D)
    block = tl.program_id(0) % blocks
    g_index = tl.program_id(0) // blocks
    c = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    in_group = block * BLOCK_D + tl.arange(0, BLOCK_D)
    d = g_index * group + in_group
    ok = in_group < group
    flat = tl.arange(0, BLOCK_N * BLOCK_D)
    flat_n = flat // BLOCK_D
    flat_in_group = block * BLOCK_D + flat % BLOCK_D
    flat_d = (g_index * group + flat_in_group).to(tl.int64)
    flat_ok = (flat_in_group < group) & (flat_n < N)
    state_offset = flat_d * s_d + flat_n.to(tl.int64) * s_n

    A = tl.load(A_ptr + flat_d * a_d + flat_n * a_n, mask=flat_ok, other=0.0).to(tl.float32) * LOG2E
    A = tl.reshape(A, [BLOCK_N, BLOCK_D])
    if HAS_D:
        D = tl.load(D_ptr + d, mask=ok, other=0.0).to(tl.float32)
        dD = tl.zeros([BLOCK_D], tl.float32)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + d, mask=ok, other=0.0).to(tl.float32)
        dbias = tl.zeros([BLOCK_D], tl.float32)
    dA = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)

    # g: gradient that reaches the state before the step that was handled last
    g = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    if CHUNKS:
        chunks = tl.num_programs(1)
        for step in range(0, chunks - 1 - c):
            later = chunks - 1 - step
            row = b * chunks + later
            total = tl.load(sum_dt_ptr + row * channels + d, mask=ok, other=0.0)
            added = tl.load(added_ptr + row * N * channels + state_offset, mask=flat_ok, other=0.0)
            g = pass_chunk(g, total, A, PRECISE, HAS_MARKS) + tl.reshape(added, [BLOCK_N, BLOCK_D])

    start = c * chunk
    end = tl.minimum(start + chunk, length)
    windows = tl.cdiv(end - start, K)
    u_ptr += b * u_b + d
    dt_ptr += b * dt_b + d
    dout_ptr += b * dout_b + d
    du_ptr += b * du_b + d
    ddt_ptr += b * ddt_b + d
    B_ptr += b * B_b + g_index.to(tl.int64) * B_g
    C_ptr += b * C_b + g_index.to(tl.int64) * C_g
    if HAS_MARKS:
        marks_ptr += b * length
    if HAS_Z:
        z_ptr += b * z_b + d
        dz_ptr += b * dz_b + d
    groups = tl.num_programs(0) // blocks
    partial = ((block.to(tl.int64) * tl.num_programs(2) + b) * groups + g_index) * length * N
    dB_ptr += partial
    dC_ptr += partial
    program = (b * tl.num_programs(1) + c) * tl.num_programs(0) + tl.program_id(0)
    scratch_ptr += program * (K // TILE) * BLOCK_N * BLOCK_D + flat.to(tl.int64) * s_d

    for reverse in range(0, windows):
        window = start + (windows - 1 - reverse) * K
        row = b * steps + window // K
        h = tl.reshape(tl.load(checkpoint_ptr + row * N * channels + state_offset, mask=flat_ok, other=0.0), [BLOCK_N, BLOCK_D])
        if K > TILE:
            for tile in range(0, K // TILE - 1):
                tl.store(scratch_ptr + tile * BLOCK_N * BLOCK_D, tl.reshape(h, [BLOCK_N * BLOCK_D]))
                t0 = window + tile * TILE
                far = t0.to(tl.int64)
                us = ()
                dts = ()
                for i in tl.static_range(TILE):
                    live = in_group < tl.where(t0 + i < end, group, 0)
                    us += (load_row(u_ptr + (far + i) * u_l, live, FULL),)
                    dts += (load_row(dt_ptr + (far + i) * dt_l, live, FULL),)
                for i in tl.static_range(TILE):
                    inside = t0 + i < end
                    B = load_states(B_ptr + (far + i) * B_l, inside, N, BLOCK_N, FULL, PAIRS)
                    dt = dts[i]
                    if HAS_BIAS:
                        dt += bias
                    dt = step_size(dt, SOFTPLUS)
                    if not FULL:
                        dt = tl.where(inside, dt, 0.0)
                    if HAS_MARKS:
                        mark = load_mark(marks_ptr + far + i, inside, FULL)
                        earlier = tl.where(mark == START, 0.0, h)
                        later = decay_of(dt[None, :] * A, PRECISE) * earlier + (dt * us[i])[None, :] * B[:, None]
                        h = tl.where(mark == PADDING, earlier, later)
                    else:
                        h = decay_of(dt[None, :] * A, PRECISE) * h + (dt * us[i])[None, :] * B[:, None]
            tl.store(scratch_ptr + (K // TILE - 1) * BLOCK_N * BLOCK_D, tl.reshape(h, [BLOCK_N * BLOCK_D]))
            tl.debug_barrier()

        for tile_back in range(0, K // TILE):
            tile = K // TILE - 1 - tile_back
            if K > TILE:
                h = tl.reshape(tl.load(scratch_ptr + tile * BLOCK_N * BLOCK_D), [BLOCK_N, BLOCK_D])
            t0 = window + tile * TILE
            far = t0.to(tl.int64)
            us = ()
            dts = ()
            zs = ()
            dys = ()
            for i in tl.static_range(TILE):
                live = in_group < tl.where(t0 + i < end, group, 0)
                us += (load_row(u_ptr + (far + i) * u_l, live, FULL),)
                dts += (load_row(dt_ptr + (far + i) * dt_l, live, FULL),)
                dys += (load_row(dout_ptr + (far + i) * dout_l, live, FULL),)
                if HAS_Z:
                    zs += (load_row(z_ptr + (far + i) * z_l, live, FULL),)
            marks = ()
            before = ()
            decays = ()
            sizes = ()
            slopes = ()
            gated = ()
            for i in tl.static_range(TILE):
                inside = t0 + i < end
                B = load_states(B_ptr + (far + i) * B_l, inside, N, BLOCK_N, FULL, PAIRS)
                dt = dts[i]
                if HAS_BIAS:
                    dt += bias
                if SOFTPLUS:
                    slopes += (sigmoid(dt),)
                dt = step_size(dt, SOFTPLUS)
                if not FULL:
                    dt = tl.where(inside, dt, 0.0)
                dy = dys[i]
                if HAS_MARKS:
                    mark = load_mark(marks_ptr + far + i, inside, FULL)
                    marks += (mark,)
                    h = tl.where(mark == START, 0.0, h)
                    dy = tl.where(mark == PADDING, 0.0, dy)
                    dt = tl.where(mark == PADDING, 0.0, dt)
                a = decay_of(dt[None, :] * A, PRECISE)
                before += (h,)
                decays += (a,)
                sizes += (dt,)
                if HAS_MARKS:
                    h = tl.where(mark == PADDING, h, a * h + (dt * us[i])[None, :] * B[:, None])
                else:
                    h = a * h + (dt * us[i])[None, :] * B[:, None]
                if HAS_Z:
                    C = load_states(C_ptr + (far + i) * C_l, inside, N, BLOCK_N, FULL, PAIRS)
                    y = tl.sum(h * C[:, None], axis=0)
                    if HAS_D:
                        y += D * us[i]
                    s = sigmoid(zs[i])
                    dz = dy * y * s * (1.0 + zs[i] * (1.0 - s))
                    if HAS_MARKS:
                        dz = tl.where(mark == PADDING, 0.0, dz)
                    store_row(dz_ptr + (far + i) * dz_l, dz, in_group < tl.where(inside, group, 0), FULL)
                    dy = dy * zs[i] * s
                gated += (dy,)
                if not FULL:
                    dy = tl.where(ok, dy, 0.0)
                store_channel_sums(dC_ptr + (far + i) * N, dy[None, :] * h, inside, N, BLOCK_N, BLOCK_D, DOT, PRECISION)
            for i in tl.static_range(TILE - 1, -1, -1):
                inside = t0 + i < end
                B = load_states(B_ptr + (far + i) * B_l, inside, N, BLOCK_N, FULL, PAIRS)
                C = load_states(C_ptr + (far + i) * C_l, inside, N, BLOCK_N, FULL, PAIRS)
                u = us[i]
                dt = sizes[i]
                if HAS_MARKS:
                    u = tl.where(marks[i] == PADDING, 0.0, u)
                    g = tl.where(marks[i] == PADDING, g, g + gated[i][None, :] * C[:, None])
                else:
                    g += gated[i][None, :] * C[:, None]
                along_B = tl.sum(g * B[:, None], axis=0)
                dB_row = g * (dt * u)[None, :]
                store_channel_sums(dB_ptr + (far + i) * N, dB_row, inside, N, BLOCK_N, BLOCK_D, DOT, PRECISION)
                du = dt * along_B
                if HAS_D:
                    du += D * gated[i]
                    dD += u * gated[i]
                if HAS_MARKS:
                    du = tl.where(marks[i] == PADDING, 0.0, du)
                store_row(du_ptr + (far + i) * du_l, du, in_group < tl.where(inside, group, 0), FULL)
                g = g * decays[i]
                kept = g * before[i]
                dA += dt[None, :] * kept
                # A carries log2(e), which LN2 takes off again
                ddt = u * along_B + tl.sum(kept * A, axis=0) * LN2
                if SOFTPLUS:
                    ddt *= slopes[i]
                if HAS_MARKS:
                    ddt = tl.where(marks[i] == PADDING, 0.0, ddt)
                    g = tl.where(marks[i] == START, 0.0, g)
                if not FULL:
                    ddt = tl.where(inside, ddt, 0.0)
                if HAS_BIAS:
                    dbias += ddt
                store_row(ddt_ptr + (far + i) * ddt_l, ddt, in_group < tl.where(inside, group, 0), FULL)
        if K > TILE:
            tl.debug_barrier()

    if HAS_INITIAL and c == 0:
        tl.store(dinitial_ptr + b * channels * N + flat_d * N + flat_n, tl.reshape(g, [BLOCK_N * BLOCK_D]), mask=flat_ok)
    row = b * tl.num_programs(1) + c
    tl.store(dA_ptr + row * N * channels + state_offset, tl.reshape(dA, [BLOCK_N * BLOCK_D]), mask=flat_ok)
    if HAS_D:
        tl.store(dD_ptr + row * channels + d, dD, mask=ok)
    if HAS_BIAS:
        tl.store(dbias_ptr + row * channels + d, dbias, mask=ok)

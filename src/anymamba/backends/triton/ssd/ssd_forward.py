"""Mamba-2's scan, forward, in chunks (Mamba-2, section 6: state space duality).

Within a chunk the scan is a masked product of matrices; between chunks a state is passed on. Three kernels: step sizes and their
sums; a walk over the chunks that leaves the state before each; and the outputs of all chunks, in parallel. The walk holds the state
in float32 registers. The product C B^T, the same for all heads of a group, is computed once for several heads.
"""

from __future__ import annotations

import triton
import triton.language as tl

from anymamba.backends.triton.elementary import LOG2E, sigmoid, softplus


@triton.jit(do_not_specialize=["length", "heads", "padded"])
def ssd_steps_kernel(
    dt_ptr, A_ptr, bias_ptr, seq_ptr, steps_ptr, sums_ptr,
    dt_b, dt_l, dt_h, seq_b, seq_l, length, heads, padded, low, high,
    Q: tl.constexpr, BLOCK_H: tl.constexpr, SOFTPLUS: tl.constexpr, LIMIT: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SEQ: tl.constexpr,
    FLOAT64: tl.constexpr,
):  # fmt: skip
    """Grid: (chunks, blocks of heads, batch). dt: (batch, length, heads). steps: the step sizes, (batch, heads, padded), zero for
    padding; sums: their running sums within each chunk, times A and log2(e), so that exp2 of a difference is a decay."""
    b = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * Q + tl.arange(0, Q)
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    live = (t < length)[:, None] & (h < heads)[None, :]
    dt = tl.load(dt_ptr + b * dt_b + t.to(tl.int64)[:, None] * dt_l + h[None, :] * dt_h, mask=live, other=0.0).to(tl.float32)
    if HAS_BIAS:
        dt += tl.load(bias_ptr + h, mask=h < heads, other=0.0).to(tl.float32)[None, :]
    if SOFTPLUS:
        dt = softplus(dt)
    if LIMIT:
        dt = tl.minimum(tl.maximum(dt, low), high)
    if HAS_SEQ:
        live = live & (tl.load(seq_ptr + b * seq_b + t * seq_l, mask=t < length, other=-1) >= 0)[:, None]
    dt = tl.where(live, dt, 0.0)
    A = tl.load(A_ptr + h, mask=h < heads, other=0.0).to(tl.float32) * LOG2E
    at = (b * heads + h[None, :]) * padded + t[:, None]
    tl.store(steps_ptr + at, dt, mask=(h < heads)[None, :])
    # in float64, rounded once: in float32 two sums of the same steps differ by the order of their additions, and what follows the last
    # token of an unfilled chunk would show as a decay
    sums = tl.cumsum((dt * A[None, :]).to(tl.float64 if FLOAT64 else tl.float32), axis=0)
    tl.store(sums_ptr + at, sums.to(tl.float32), mask=(h < heads)[None, :])


@triton.jit(do_not_specialize=["length", "padded", "heads", "heads_per_group", "chunks"])
def ssd_walk_kernel(
    x_ptr, low_ptr, B_ptr, steps_ptr, sums_ptr, documents_ptr, first_ptr, states_ptr, last_ptr,
    x_b, x_l, x_h, x_p, B_b, B_l, B_g, B_n, length, padded, heads, heads_per_group, chunks,
    Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
    REVERSE: tl.constexpr, HAS_LOW: tl.constexpr, HAS_FIRST: tl.constexpr, HAS_SEQ: tl.constexpr, HAS_LAST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: (blocks of P * blocks of N, heads, batch).

    Forward: states (batch, chunks, heads, P, N) receives the state before each chunk, last (batch, heads, P, N) the one after all,
    first is the one before. REVERSE: x is dy and B is C; states receives the gradient of the state after each chunk, first is the
    gradient of the last state, last receives that of the first. low: what an x of 16 bits lacks (HAS_LOW), laid out as x. documents:
    (batch, padded), never falling.
    """
    h = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    blocks_n: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    p = (tl.program_id(0) // blocks_n) * BLOCK_P + tl.arange(0, BLOCK_P)
    n = (tl.program_id(0) % blocks_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    q = tl.arange(0, Q)
    x_ptr += b * x_b + h.to(tl.int64) * x_h
    if HAS_LOW:
        low_ptr += b * x_b + h.to(tl.int64) * x_h
    B_ptr += b * B_b + (h // heads_per_group).to(tl.int64) * B_g
    steps_ptr += (b * heads + h) * padded
    sums_ptr += (b * heads + h) * padded
    if HAS_SEQ:
        documents_ptr += b * padded
    at = p[:, None] * N + n[None, :]
    inside = (p < P)[:, None] & (n < N)[None, :]
    state = tl.zeros([BLOCK_P, BLOCK_N], tl.float32)
    if HAS_FIRST:
        state += tl.load(first_ptr + (b * heads + h) * P * N + at, mask=inside, other=0.0).to(tl.float32)
    for step in range(0, chunks):
        c = tl.cast(step, tl.int32)
        if REVERSE:
            c = chunks - 1 - c
        tl.store(states_ptr + ((b * chunks + c) * heads + h) * P * N + at, state.to(states_ptr.dtype.element_ty), mask=inside)
        t = c * Q + q
        start = (c * Q).to(tl.int64)
        x_at = start * x_l + (q[:, None] * x_l + p[None, :] * x_p)
        x = tl.load(x_ptr + x_at, mask=(t < length)[:, None] & (p < P)[None, :], other=0.0)
        B = tl.load(B_ptr + start * B_l + (q[:, None] * B_l + n[None, :] * B_n), mask=(t < length)[:, None] & (n < N)[None, :], other=0.0)
        sums = tl.load(sums_ptr + t)
        total = tl.load(sums_ptr + c * Q + Q - 1)
        carried = tl.exp2(total)
        if REVERSE:
            weights = tl.exp2(sums)
        else:
            weights = tl.exp2(total - sums) * tl.load(steps_ptr + t)
        if HAS_SEQ:
            before = tl.load(documents_ptr + tl.maximum(c * Q - 1, 0)) * tl.where(c > 0, 1, 0)
            after = tl.load(documents_ptr + c * Q + Q - 1)
            carried = tl.where(before == after, carried, 0.0)
            if REVERSE:
                weights = tl.where(tl.load(documents_ptr + t) == before, weights, 0.0)
            else:
                weights = tl.where(tl.load(documents_ptr + t) == after, weights, 0.0)
        weighted = B.to(tl.float32) * weights[:, None]
        rounded = weighted.to(x.dtype)
        state = tl.dot(tl.trans(x), rounded, acc=state * carried, input_precision=PRECISION)
        if HAS_LOW:
            low = tl.load(low_ptr + x_at, mask=(t < length)[:, None] & (p < P)[None, :], other=0.0)
            state = tl.dot(tl.trans(low), rounded, acc=state, input_precision=PRECISION)
        if HAS_LAST and x.dtype != tl.float32:
            # a state or gradient that is handed on is float32, free of the rounding of 16 bits: two more parts of every weight
            for _ in tl.static_range(2):
                weighted -= rounded.to(tl.float32)
                rounded = weighted.to(x.dtype)
                state = tl.dot(tl.trans(x), rounded, acc=state, input_precision=PRECISION)
    if HAS_LAST:
        tl.store(last_ptr + (b * heads + h) * P * N + at, state, mask=inside)


@triton.jit
def over_states(
    left_ptr, left_n, left_ok, right_ptr, right_n, right_ok,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The sum over n < N of left[i, n] right[j, n], read BLOCK_K states at a time: (ROWS, COLUMNS) float32. A tile of all states
    would have to be in the registers of every warp, and for float32 three times. left_ptr, left_ok: where each row begins and whether
    it is there, (ROWS, 1); right_ptr, right_ok: likewise, (COLUMNS, 1)."""
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, N, BLOCK_K):
        n = first + tl.arange(0, BLOCK_K)[None, :]
        left = tl.load(left_ptr + n * left_n, mask=left_ok & (n < N), other=0.0)
        right = tl.load(right_ptr + n * right_n, mask=right_ok & (n < N), other=0.0)
        total = tl.dot(left, tl.trans(right), acc=total, input_precision=PRECISION)
    return total


@triton.jit(do_not_specialize=["length", "padded", "heads", "heads_per_group", "together"])
def ssd_output_kernel(
    x_ptr, B_ptr, C_ptr, D_ptr, z_ptr, seq_ptr, steps_ptr, sums_ptr, documents_ptr, states_ptr, out_ptr, ungated_ptr,
    x_b, x_l, x_h, x_p, B_b, B_l, B_g, B_n, C_b, C_l, C_g, C_n, z_b, z_l, z_h, z_p, seq_b, seq_l, D_h, D_p,
    length, padded, heads, heads_per_group, together,
    Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_UNGATED: tl.constexpr, HAS_SEQ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: (groups * blocks of heads, chunks, batch); together: heads of a block. BLOCK_K: states that a product over
    them takes at a time, at most BLOCK_N. out, ungated (before the gate): (batch, length, heads, P), contiguous."""
    WHOLE: tl.constexpr = BLOCK_K >= BLOCK_N
    blocks = tl.cdiv(heads_per_group, together)
    g = tl.program_id(0) // blocks
    c = tl.program_id(1)
    chunks = tl.num_programs(1)
    b = tl.program_id(2).to(tl.int64)
    p = tl.arange(0, BLOCK_P)
    n = tl.arange(0, BLOCK_N)
    q = tl.arange(0, Q)
    t = c * Q + q
    start = (c * Q).to(tl.int64)
    rows = (t < length)[:, None]
    in_N = rows & (n < N)[None, :]
    in_P = rows & (p < P)[None, :]
    if WHOLE:
        B = tl.load(B_ptr + b * B_b + g.to(tl.int64) * B_g + start * B_l + (q[:, None] * B_l + n[None, :] * B_n), mask=in_N, other=0.0)
        C = tl.load(C_ptr + b * C_b + g.to(tl.int64) * C_g + start * C_l + (q[:, None] * C_l + n[None, :] * C_n), mask=in_N, other=0.0)
        CB = tl.dot(C, tl.trans(B), input_precision=PRECISION)
    else:
        B_rows = B_ptr + b * B_b + g.to(tl.int64) * B_g + start * B_l + q[:, None] * B_l
        C_rows = C_ptr + b * C_b + g.to(tl.int64) * C_g + start * C_l + q[:, None] * C_l
        CB = over_states(C_rows, C_n, rows, B_rows, B_n, rows, Q, Q, N, BLOCK_K, PRECISION)
    causal = q[:, None] >= q[None, :]
    if HAS_SEQ:
        documents_ptr += b * padded
        documents = tl.load(documents_ptr + t)
        before = tl.load(documents_ptr + tl.maximum(c * Q - 1, 0)) * tl.where(c > 0, 1, 0)
        causal = causal & (documents[:, None] == documents[None, :])
        padding = tl.load(seq_ptr + b * seq_b + t * seq_l, mask=t < length, other=0) < 0
    first = g * heads_per_group + (tl.program_id(0) % blocks) * together
    for h in range(first, tl.minimum(first + together, (g + 1) * heads_per_group)):
        head = tl.cast(h, tl.int64)
        sums = tl.load(sums_ptr + (b * heads + head) * padded + t)
        steps = tl.load(steps_ptr + (b * heads + head) * padded + t)
        x = tl.load(x_ptr + b * x_b + head * x_h + start * x_l + (q[:, None] * x_l + p[None, :] * x_p), mask=in_P, other=0.0)
        state_ptr = states_ptr + ((b * chunks + c) * heads + head) * P * N
        if WHOLE:
            state_at = state_ptr + (p[:, None] * N + n[None, :])
            state = tl.load(state_at, mask=(p < P)[:, None] & (n < N)[None, :], other=0.0)
        if HAS_Z:
            # early, for nothing else hides its latency
            z_at = z_ptr + b * z_b + head * z_h + start * z_l + (q[:, None] * z_l + p[None, :] * z_p)
            gate = tl.load(z_at, mask=in_P, other=0.0)
        reach = tl.exp2(sums)
        if HAS_SEQ:
            reach = tl.where(documents == before, reach, 0.0)
        if WHOLE:
            y = tl.dot(C, tl.trans(state.to(C.dtype)), input_precision=PRECISION) * reach[:, None]
        else:
            y = over_states(C_rows, C_n, rows, state_ptr + p[:, None] * N, 1, (p < P)[:, None], Q, BLOCK_P, N, BLOCK_K, PRECISION)
            y *= reach[:, None]
        decay = tl.exp2(sums[:, None] - sums[None, :])
        mixing = tl.where(causal, CB * decay * steps[None, :], 0.0)
        y = tl.dot(mixing.to(x.dtype), x, acc=y, input_precision=PRECISION)
        if HAS_D:
            D = tl.load(D_ptr + head * D_h + p * D_p, mask=p < P, other=0.0).to(tl.float32)
            y += D[None, :] * x.to(tl.float32)
        if HAS_SEQ:
            y = tl.where(padding[:, None], 0.0, y)
        out_at = ((b * length + start) * heads + head) * P + (q[:, None] * (heads * P) + p[None, :])
        if HAS_UNGATED:
            tl.store(ungated_ptr + out_at, y.to(ungated_ptr.dtype.element_ty), mask=in_P)
        if HAS_Z:
            z = gate.to(tl.float32)
            y *= z * sigmoid(z, z_ptr.dtype.element_ty)
        tl.store(out_ptr + out_at, y.to(out_ptr.dtype.element_ty), mask=in_P)

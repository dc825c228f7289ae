"""Mamba-3's scan, forward, SISO and MIMO (Mamba-3, section 3): one kernel that walks over a sequence chunk by chunk.

With s[t] the running sum of ADT in a chunk, gamma = trap DT, beta = (1 - trap) DT and scale[u] = gamma[u] + beta[u + 1], the trapezoid
rule is Mamba-2's scan but for what a token gives itself:

    y[t] = sum over u < t of exp(s[t] - s[u]) scale[u] (q[t] . k[u]) v[u]  +  gamma[t] (q[t] . k[t]) v[t]  +  exp(s[t]) S q[t]

S, the state before the chunk, stays in float32 registers; a state that is handed in brings its last key and value, which enter with the
first token's beta. With several ranks, every row of a token sees all rows of its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from anymamba.backends.triton.elementary import sigmoid
from anymamba.backends.triton.mamba3.tokens import (
    TURN,
    as_fraction,
    as_integer,
    column_of,
    cosine_and_sine,
    last_of,
    rotated,
    running_sums,
    sequence_of,
    steps_of,
    turned_by,
)


@triton.jit(do_not_specialize=["length", "heads", "heads_per_group", "zero"])
def mamba3_forward_kernel(
    q_ptr, k_ptr, v_ptr, adt_ptr, dt_ptr, trap_ptr, q_bias_ptr, k_bias_ptr, angles_ptr, up_ptr, gate_ptr, down_ptr, D_ptr, z_ptr,
    borders_ptr, angle_first_ptr, ssm_first_ptr, k_first_ptr, v_first_ptr,
    out_ptr, ungated_ptr, q_out_ptr, k_out_ptr, states_ptr, turns_ptr, angle_last_ptr, ssm_last_ptr, k_last_ptr, v_last_ptr,
    q_b, q_l, q_r, q_g, q_n, k_b, k_l, k_r, k_g, k_n, v_b, v_l, v_h, v_p, adt_b, adt_h, adt_l, dt_b, dt_h, dt_l, trap_b, trap_h, trap_l,
    angles_b, angles_l, angles_h, angles_n, z_b, z_l, z_h, z_p, length, heads, heads_per_group, zero,
    Q: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr, P: tl.constexpr, N: tl.constexpr, ANGLES: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, NEIGHBOURS: tl.constexpr, PACKED: tl.constexpr, HAS_FIRST: tl.constexpr,
    HAS_LAST: tl.constexpr, HAS_OUT: tl.constexpr, HAS_UNGATED: tl.constexpr, HAS_STATES: tl.constexpr, HAS_UP: tl.constexpr,
    HAS_DOWN: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, FLOAT64: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: (heads * blocks of P, sequences). q, k, v are of one dtype. up, gate, down: MIMO_V, MIMO_Z, MIMO_Out, (heads, rank, P). All
    that is of a sequence before its first token (first) or after its last (last) is contiguous, (sequences, ...).

    out: (batch, length, heads, P) with HAS_DOWN or one rank, else (batch, length, rank, heads, P); ungated: the latter. states: (chunks of
    all, heads, P, N), before each chunk, turns: (chunks of all, heads, BLOCK_N / 2), integers, and q_out, k_out: (batch, length, rank,
    heads, N), turned, neighbours beside each other; for the backward pass, which asks for these alone (HAS_OUT false)."""
    ROWS: tl.constexpr = Q * RANKS
    PAIRS: tl.constexpr = BLOCK_N // 2
    kind: tl.constexpr = v_ptr.dtype.element_ty
    parts: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    head = tl.program_id(0) // parts
    h = head.to(tl.int64)
    part = tl.program_id(0) % parts
    s = tl.program_id(1)
    b, begin, end, chunk = sequence_of(s, borders_ptr, length, Q, PACKED)
    n = tl.arange(0, BLOCK_N)
    column = column_of(n, N, NEIGHBOURS)
    p = part * BLOCK_P + tl.arange(0, BLOCK_P)
    j = tl.arange(0, PAIRS)
    # what does not belong to a part of the head is stored by the first
    N_here = tl.where(part == 0, N, 0)
    pairs_here = tl.where(part == 0, PAIRS, 0)
    group = h // heads_per_group
    q_ptr += b * q_b + group * q_g
    k_ptr += b * k_b + group * k_g
    v_ptr += b * v_b + h * v_h
    adt_ptr += b * adt_b + h * adt_h
    dt_ptr += b * dt_b + h * dt_h
    trap_ptr += b * trap_b + h * trap_h
    angles_ptr += b * angles_b + h * angles_h
    if HAS_Z:
        z_ptr += b * z_b + h * z_h
    q_bias_ptr += h * (RANK * N)
    k_bias_ptr += h * (RANK * N)
    of_head = s.to(tl.int64) * heads + h
    state_at = p[:, None] * N + column[None, :]
    in_state = (p < P)[:, None] & (n < N)[None, :]
    state = tl.zeros([BLOCK_P, BLOCK_N], tl.float32)
    turns = tl.zeros([PAIRS], tl.int32)
    if HAS_FIRST:
        state += tl.load(ssm_first_ptr + of_head * (P * N) + state_at, mask=in_state, other=0.0).to(tl.float32)
        angle = tl.load(angle_first_ptr + of_head * ANGLES + j, mask=j < ANGLES, other=0.0).to(tl.float32)
        turns += as_integer(angle * (1.0 / TURN))
        k_before = tl.load(k_first_ptr + of_head * N + column, mask=n < N, other=0.0).to(tl.float32)
        v_before = tl.load(v_first_ptr + of_head * P + p, mask=p < P, other=0.0).to(tl.float32)
        if end > begin:
            at = begin.to(tl.int64)
            beta = sigmoid(-tl.load(trap_ptr + at * trap_l).to(tl.float32)) * tl.load(dt_ptr + at * dt_l).to(tl.float32)
            state += (v_before * beta)[:, None] * k_before[None, :]
        elif HAS_LAST:  # nothing comes after the states
            tl.store(angle_last_ptr + of_head * ANGLES + j, angle, mask=(j < ANGLES) & (j < pairs_here))
            tl.store(v_last_ptr + of_head * P + p, v_before.to(v_last_ptr.dtype.element_ty), mask=p < P)
            tl.store(k_last_ptr + of_head * N + column, k_before, mask=n < N_here)
    if HAS_OUT:
        out_ptr += b * length * heads * (P if HAS_DOWN else RANK * P)
    if HAS_UNGATED:
        ungated_ptr += b * length * heads * (RANK * P)
    for c in range(0, tl.cdiv(end - begin, Q)):
        # zero, known only in the loop: what depends on it is computed there, and not kept in registers all along
        later = zero & tl.cast(c, tl.int32)
        i = tl.arange(0, ROWS) ^ later
        token = i // RANKS
        r = i % RANKS
        n = tl.arange(0, BLOCK_N) ^ later
        p = part * BLOCK_P + (tl.arange(0, BLOCK_P) ^ later)
        column = column_of(n, N, NEIGHBOURS)
        projection_at = (head * RANK + r)[:, None] * P + p[None, :]
        left = end - begin - c * Q
        first = (begin + c * Q).to(tl.int64)
        live = (token < left) & (r < RANK)
        once = live & (r == 0)
        if HAS_STATES:
            at = tl.cast(chunk + c, tl.int64) * heads + h
            inside = (p < P)[:, None] & (n < N)[None, :]
            state_at = p[:, None] * N + column[None, :]
            tl.store(states_ptr + at * (P * N) + state_at, state.to(states_ptr.dtype.element_ty), mask=inside)
            tl.store(turns_ptr + at * PAIRS + j, turns, mask=j < pairs_here)
            row_n = ((b * length + first) * RANK * heads + h) * N + (((token * RANK + r) * heads)[:, None] * N + n[None, :])
        dt, trap, scale = steps_of(dt_ptr, dt_l, trap_ptr, trap_l, first, token, left, live)
        sums = running_sums(adt_ptr, adt_l, first, token, once, FLOAT64)
        total = last_of(sums, ROWS)
        _, angles, turns = turned_by(angles_ptr, angles_l, angles_n, first, token, once, dt, turns, ROWS, ANGLES, PAIRS)
        cosine, sine = cosine_and_sine(as_fraction(angles))
        in_P = live[:, None] & (p < P)[None, :]
        v = tl.load(v_ptr + first * v_l + (token[:, None] * v_l + p[None, :] * v_p), mask=in_P, other=0.0)
        if HAS_UP:
            up = tl.load(up_ptr + projection_at, mask=in_P, other=0.0).to(tl.float32)
            wide_v = v.to(tl.float32) * up
            v = wide_v.to(kind)
        wide_k = rotated(k_ptr, k_l, k_r, k_n, k_bias_ptr, first, token, r, n, live, cosine, sine, ROWS, N, BLOCK_N, NEIGHBOURS)
        if HAS_LAST:
            final = live & (token == left - 1)
            last_at = (r * heads)[:, None] * N + column[None, :]
            key_ptr = k_last_ptr + (s.to(tl.int64) * RANK * heads + h) * N
            tl.store(key_ptr + last_at, wide_k, mask=final[:, None] & (n < N_here)[None, :])
        k = wide_k.to(kind)
        if HAS_STATES:
            in_N = live[:, None] & (n < N)[None, :]
            tl.store(k_out_ptr + row_n, k, mask=in_N)
            q = rotated(q_ptr, q_l, q_r, q_n, q_bias_ptr, first, token, r, n, live, cosine, sine, ROWS, N, BLOCK_N, NEIGHBOURS)
            tl.store(q_out_ptr + row_n, q.to(kind), mask=in_N)
        if HAS_OUT:
            q = rotated(q_ptr, q_l, q_r, q_n, q_bias_ptr, first, token, r, n, live, cosine, sine, ROWS, N, BLOCK_N, NEIGHBOURS).to(kind)
            y = tl.dot(q, tl.trans(state.to(kind)), input_precision=PRECISION) * tl.exp2(sums)[:, None]
            scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            weights = tl.exp2(tl.minimum(sums[:, None] - sums[None, :], 0.0)) * scale[None, :]
            weights = tl.where(token[:, None] == token[None, :], (trap * dt)[None, :], weights)
            mixing = tl.where(token[:, None] >= token[None, :], scores * weights, 0.0)
            y = tl.dot(mixing.to(kind), v, acc=y, input_precision=PRECISION)
            if HAS_D:
                D = tl.load(D_ptr + h).to(tl.float32)
                if HAS_UP:
                    y += D * wide_v
                else:
                    y += D * v.to(tl.float32)
            start = (first * RANK * heads + h) * P
            row_at = ((token * RANK + r) * heads)[:, None] * P + p[None, :]
            if HAS_UNGATED:
                tl.store(ungated_ptr + start + row_at, y.to(ungated_ptr.dtype.element_ty), mask=in_P)
            if HAS_Z:
                z = tl.load(z_ptr + first * z_l + (token[:, None] * z_l + p[None, :] * z_p), mask=in_P, other=0.0).to(tl.float32)
                if HAS_UP:
                    z *= tl.load(gate_ptr + projection_at, mask=in_P, other=0.0).to(tl.float32)
                y *= z * sigmoid(z)
            if HAS_DOWN:
                y *= tl.load(down_ptr + projection_at, mask=in_P, other=0.0).to(tl.float32)
                y = tl.sum(tl.reshape(y, [Q, RANKS, BLOCK_P]), axis=1)
                u = tl.arange(0, Q)
                out_at = (u * heads)[:, None] * P + p[None, :]
                out_mask = (u < left)[:, None] & (p < P)[None, :]
                tl.store(out_ptr + (first * heads + h) * P + out_at, y.to(out_ptr.dtype.element_ty), mask=out_mask)
            else:
                tl.store(out_ptr + start + row_at, y.to(out_ptr.dtype.element_ty), mask=in_P)
        if HAS_LAST:
            weighted = wide_k * (scale * tl.exp2(total - sums))[:, None]
        else:  # the narrow keys take fewer registers while they wait
            weighted = k.to(tl.float32) * (scale * tl.exp2(total - sums))[:, None]
        rounded = weighted.to(kind)
        state = tl.dot(tl.trans(v), rounded, acc=state * tl.exp2(total), input_precision=PRECISION)
        if HAS_LAST and kind != tl.float32:
            # a state that is handed on is float32, free of the rounding of 16 bits: two more parts of every key
            for _ in tl.static_range(2):
                weighted -= rounded.to(tl.float32)
                rounded = weighted.to(kind)
                state = tl.dot(tl.trans(v), rounded, acc=state, input_precision=PRECISION)
    if HAS_LAST:
        n = tl.arange(0, BLOCK_N)
        p = part * BLOCK_P + tl.arange(0, BLOCK_P)
        state_at = p[:, None] * N + column_of(n, N, NEIGHBOURS)[None, :]
        in_state = (p < P)[:, None] & (n < N)[None, :]
        tl.store(ssm_last_ptr + of_head * (P * N) + state_at, state, mask=in_state)
        if end > begin:
            tl.store(angle_last_ptr + of_head * ANGLES + j, as_fraction(turns) * TURN, mask=(j < ANGLES) & (j < pairs_here))
            at = (end - 1).to(tl.int64)
            value = tl.load(v_ptr + at * v_l + p * v_p, mask=p < P, other=0.0)
            tl.store(v_last_ptr + of_head * P + p, value.to(v_last_ptr.dtype.element_ty), mask=p < P)

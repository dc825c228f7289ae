"""Mamba-3's scan, forward, SISO and MIMO (Mamba-3, section 3): one kernel that walks over a sequence chunk by chunk.

With s[t] the running sum of ADT in a chunk, gamma = trap DT, beta = (1 - trap) DT and scale[u] = gamma[u] + beta[u + 1], the trapezoid
rule is Mamba-2's scan but for what a token gives itself:

    y[t] = sum over u < t of exp(s[t] - s[u]) scale[u] (q[t] . k[u]) v[u]  +  gamma[t] (q[t] . k[t]) v[t]  +  exp(s[t]) S q[t]

S, the state before the chunk, stays in float32 registers; a state that is handed in brings its last key and value, which enter with the
first token's beta. With several ranks, every row of a token sees all rows of its own. Keys and queries come turned (rotation.py).
"""

from __future__ import annotations

import triton
import triton.language as tl

from anymamba.backends.triton.elementary import sigmoid
from anymamba.backends.triton.mamba3.tokens import column_of, sequence_of


@triton.jit(do_not_specialize=["length", "heads", "zero"])
def mamba3_walk_kernel(
    q_ptr, k_ptr, v_ptr, sums_ptr, scale_ptr, gamma_ptr, dt_ptr, trap_ptr, up_ptr, gate_ptr, down_ptr, D_ptr, z_ptr, borders_ptr,
    ssm_first_ptr, k_first_ptr, v_first_ptr, out_ptr, ungated_ptr, states_ptr, ssm_last_ptr, k_last_ptr, v_last_ptr,
    v_b, v_l, v_h, v_p, dt_b, dt_h, dt_l, trap_b, trap_h, trap_l, z_b, z_l, z_h, z_p, length, heads, zero,
    Q: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, NEIGHBOURS: tl.constexpr, PACKED: tl.constexpr, HAS_FIRST: tl.constexpr,
    HAS_LAST: tl.constexpr, HAS_OUT: tl.constexpr, HAS_UNGATED: tl.constexpr, HAS_STATES: tl.constexpr, HAS_UP: tl.constexpr,
    HAS_DOWN: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: (heads * blocks of P, sequences). q, k, sums, scale, gamma: as mamba3_rotate_kernel leaves them, q in the dtype of v, k too
    but float32 with HAS_LAST. up, gate, down: MIMO_V, MIMO_Z, MIMO_Out, (heads, rank, P). All that is of a sequence before its first
    token (first) or after its last (last) is contiguous, (sequences, ...).

    out: (batch, length, heads, P) with HAS_DOWN or one rank, else (batch, length, rank, heads, P); ungated: the latter. states: (chunks of
    all, heads, P, N), before each chunk."""
    ROWS: tl.constexpr = Q * RANKS
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
    of_head = s.to(tl.int64) * heads + h
    state = tl.zeros([BLOCK_P, BLOCK_N], tl.float32)
    if HAS_FIRST:
        state_at = p[:, None] * N + column[None, :]
        in_state = (p < P)[:, None] & (n < N)[None, :]
        state += tl.load(ssm_first_ptr + of_head * (P * N) + state_at, mask=in_state, other=0.0).to(tl.float32)
        k_before = tl.load(k_first_ptr + of_head * N + column, mask=n < N, other=0.0).to(tl.float32)
        v_before = tl.load(v_first_ptr + of_head * P + p, mask=p < P, other=0.0).to(tl.float32)
        if end > begin:
            at = begin.to(tl.int64)
            beta = sigmoid(-tl.load(trap_ptr + b * trap_b + h * trap_h + at * trap_l).to(tl.float32))
            beta *= tl.load(dt_ptr + b * dt_b + h * dt_h + at * dt_l).to(tl.float32)
            state += (v_before * beta)[:, None] * k_before[None, :]
        elif HAS_LAST:  # nothing comes after the states; what does not belong to a part of the head is stored by the first
            tl.store(v_last_ptr + of_head * P + p, v_before.to(v_last_ptr.dtype.element_ty), mask=p < P)
            tl.store(k_last_ptr + of_head * N + column, k_before, mask=n < tl.where(part == 0, N, 0))
    v_ptr += b * v_b + h * v_h
    if HAS_Z:
        z_ptr += b * z_b + h * z_h
    if HAS_OUT:
        out_ptr += b * length * heads * (P if HAS_DOWN else RANK * P)
    if HAS_UNGATED:
        ungated_ptr += b * length * heads * (RANK * P)
    q_ptr += (b * length * RANK * heads + h) * N
    k_ptr += (b * length * RANK * heads + h) * N
    of_token = (b * heads + h) * length
    for c in range(0, tl.cdiv(end - begin, Q)):
        # zero, known only in the loop: what depends on it is computed there, and not kept in registers all along; a multiple of 16, so
        # that rows are still known to be aligned
        later = (zero & tl.cast(c, tl.int32)) * 16
        i = tl.arange(0, ROWS) + later
        token = i // RANKS
        r = i % RANKS
        n = tl.arange(0, BLOCK_N) + later
        p = part * BLOCK_P + (tl.arange(0, BLOCK_P) + later)
        projection_at = (head * RANK + r)[:, None] * P + p[None, :]
        left = end - begin - c * Q
        first = (begin + c * Q).to(tl.int64)
        live = (token < left) & (r < RANK)
        in_P = live[:, None] & (p < P)[None, :]
        in_N = live[:, None] & (n < N)[None, :]
        at_n = first * (RANK * heads * N) + (((token * RANK + r) * heads)[:, None] * N + n[None, :])
        read_k = tl.load(k_ptr + at_n, mask=in_N, other=0.0)
        v = tl.load(v_ptr + first * v_l + (token[:, None] * v_l + p[None, :] * v_p), mask=in_P, other=0.0)
        if HAS_STATES:
            inside = (p < P)[:, None] & (n < N)[None, :]
            chunk_ptr = states_ptr + (tl.cast(chunk + c, tl.int64) * heads + h) * (P * N)
            chunk_at = p[:, None] * N + column_of(n, N, NEIGHBOURS)[None, :]
            tl.store(chunk_ptr + chunk_at, state.to(states_ptr.dtype.element_ty), mask=inside)
        # after the last token the sums stay as they are
        sums = tl.load(sums_ptr + of_token + first + tl.minimum(token, left - 1))
        total = tl.load(sums_ptr + of_token + first + tl.minimum(Q, left) - 1)
        scale = tl.load(scale_ptr + of_token + first + token, mask=live, other=0.0)
        if HAS_UP:
            up = tl.load(up_ptr + projection_at, mask=in_P, other=0.0).to(tl.float32)
            wide_v = v.to(tl.float32) * up
            v = wide_v.to(kind)
        k = read_k.to(kind)
        if HAS_OUT:
            q = tl.load(q_ptr + at_n, mask=in_N, other=0.0)
            if HAS_Z:
                # early, for nothing else hides its latency
                z_at = first * z_l + (token[:, None] * z_l + p[None, :] * z_p)
                raw_z = tl.load(z_ptr + z_at, mask=in_P, other=0.0)
            gamma = tl.load(gamma_ptr + of_token + first + token, mask=live, other=0.0)
            y = tl.dot(q, tl.trans(state.to(kind)), input_precision=PRECISION) * tl.exp2(sums)[:, None]
            scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            weights = tl.exp2(tl.minimum(sums[:, None] - sums[None, :], 0.0)) * scale[None, :]
            weights = tl.where(token[:, None] == token[None, :], gamma[None, :], weights)
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
                z = raw_z.to(tl.float32)
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
        to_end = scale * tl.exp2(total - sums)
        if HAS_LAST:
            weighted = read_k.to(tl.float32) * to_end[:, None]
            rounded = weighted.to(kind)
            state = tl.dot(tl.trans(v), rounded, acc=state * tl.exp2(total), input_precision=PRECISION)
            if kind != tl.float32:
                # a state that is handed on is float32, free of the rounding of 16 bits: two more parts of every key
                for _ in tl.static_range(2):
                    weighted -= rounded.to(tl.float32)
                    rounded = weighted.to(kind)
                    state = tl.dot(tl.trans(v), rounded, acc=state, input_precision=PRECISION)
        else:
            if HAS_UP:
                weighted_v = (wide_v * to_end[:, None]).to(kind)
            else:
                weighted_v = (v.to(tl.float32) * to_end[:, None]).to(kind)
            state = tl.dot(tl.trans(weighted_v), k, acc=state * tl.exp2(total), input_precision=PRECISION)
    if HAS_LAST:
        n = tl.arange(0, BLOCK_N)
        p = part * BLOCK_P + tl.arange(0, BLOCK_P)
        state_at = p[:, None] * N + column_of(n, N, NEIGHBOURS)[None, :]
        in_state = (p < P)[:, None] & (n < N)[None, :]
        tl.store(ssm_last_ptr + of_head * (P * N) + state_at, state, mask=in_state)
        if end > begin:
            value = tl.load(v_ptr + (end - 1).to(tl.int64) * v_l + p * v_p, mask=p < P, other=0.0)
            tl.store(v_last_ptr + of_head * P + p, value.to(v_last_ptr.dtype.element_ty), mask=p < P)

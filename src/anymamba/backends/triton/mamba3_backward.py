"""Mamba-3's scan, backward: one kernel that walks over a sequence from its last chunk to its first, with the gradient of the state in
float32 registers. The states before the chunks come from the forward kernel, run again for them alone.

In the words of mamba3_forward, with L[t, u] = exp(s[t] - s[u]) for u < t and W[t, u] = dy[t] . v[u]: the gradient of the scores is
W (L scale + own gamma), that of an exponent s[t] is the sum of its row of W scores L scale less the sum of its column, and what passes
through the state before and after the chunk is added to both. No exponent stands in what a token gives itself: left in, it would be
added and subtracted again, and drown what decayed. An angle turns all keys and queries from its token on, so its gradient is a sum over
them, which goes on from chunk to chunk.
"""

from __future__ import annotations

import triton
import triton.language as tl

from anymamba.backends.triton.elementary import sigmoid
from anymamba.backends.triton.mamba3_tokens import (
    as_fraction,
    column_of,
    cosine_and_sine,
    last_of,
    rotated,
    running_sums,
    sequence_of,
    steps_of,
    turned_by,
)


@triton.jit
def turned_back(
    d_out_ptr, bias_sums, turned, gradient, cosine, sine, row, live,
    Q: tl.constexpr, RANKS: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr, NEIGHBOURS: tl.constexpr,
):  # fmt: skip
    """From the gradient of keys or queries as turned: stores that before the turn, adds it to the bias's, returns both the latter and
    the gradient of the angle, (rows, BLOCK_N / 2)."""
    ROWS: tl.constexpr = Q * RANKS
    n = tl.arange(0, BLOCK_N)
    a, b = tl.split(tl.reshape(turned, [ROWS, BLOCK_N // 2, 2]))
    da, db = tl.split(tl.reshape(gradient, [ROWS, BLOCK_N // 2, 2]))
    of_angle = db * a - da * b
    before = tl.reshape(tl.join(da * cosine + db * sine, db * cosine - da * sine), [ROWS, BLOCK_N])
    before = tl.where(live[:, None], before, 0.0)
    at = row[:, None] * N + column_of(n, N, NEIGHBOURS)[None, :]
    tl.store(d_out_ptr + at, before.to(d_out_ptr.dtype.element_ty), mask=live[:, None] & (n < N)[None, :])
    return bias_sums + tl.sum(tl.reshape(before, [Q, RANKS, BLOCK_N]), axis=0), tl.where(live[:, None], of_angle, 0.0)


@triton.jit
def of_ranks(x, Q: tl.constexpr, RANKS: tl.constexpr):
    """Of a token, the sum over its rows."""
    return tl.sum(tl.reshape(x, [Q, RANKS]), axis=1)


@triton.jit(do_not_specialize=["length", "heads", "heads_per_group"])
def mamba3_backward_kernel(
    dout_ptr, q_ptr, k_ptr, v_ptr, adt_ptr, dt_ptr, trap_ptr, q_bias_ptr, k_bias_ptr, angles_ptr, up_ptr, gate_ptr, down_ptr, D_ptr, z_ptr,
    borders_ptr, ungated_ptr, states_ptr, turns_ptr, k_first_ptr, v_first_ptr, dangle_last_ptr, dssm_last_ptr, dk_last_ptr, dv_last_ptr,
    dq_ptr, dk_ptr, dv_ptr, dz_ptr, dadt_ptr, dgamma_ptr, dbeta_ptr, dstep_ptr, dangles_ptr, dq_bias_ptr, dk_bias_ptr, dD_ptr, dup_ptr,
    dgate_ptr, ddown_ptr, dangle_first_ptr, dssm_first_ptr, dk_first_ptr, dv_first_ptr,
    q_b, q_l, q_r, q_g, q_n, k_b, k_l, k_r, k_g, k_n, v_b, v_l, v_h, v_p, adt_b, adt_h, adt_l, dt_b, dt_h, dt_l, trap_b, trap_h, trap_l,
    angles_b, angles_l, angles_h, angles_n, z_b, z_l, z_h, z_p, length, heads, heads_per_group,
    Q: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr, P: tl.constexpr, N: tl.constexpr, ANGLES: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, NEIGHBOURS: tl.constexpr, PACKED: tl.constexpr, HAS_FIRST: tl.constexpr,
    HAS_LAST: tl.constexpr, HAS_UP: tl.constexpr, HAS_DOWN: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    FLOAT64: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: (heads, sequences). dout, ungated and all gradients are contiguous. dq, dk: (batch, length, rank, heads, N), of each head.
    dv, dz: (batch, length, heads, P). dadt, dgamma, dbeta, dstep: (batch, heads, length) float32, of ADT, of what a token's own and the
    last key enter with, and of the step through the angles; dangles: (batch, length, heads, ANGLES). Gradients of parameters:
    (sequences, heads, ...), float32, to be added up. first, last: as in the forward kernel."""
    ROWS: tl.constexpr = Q * RANKS
    PAIRS: tl.constexpr = BLOCK_N // 2
    kind: tl.constexpr = v_ptr.dtype.element_ty
    wide: tl.constexpr = tl.float64 if FLOAT64 else tl.float32
    head = tl.program_id(0)
    h = head.to(tl.int64)
    s = tl.program_id(1)
    b, begin, end, chunk = sequence_of(s, borders_ptr, length, Q, PACKED)
    i = tl.arange(0, ROWS)
    token = i // RANKS
    r = i % RANKS
    ranks = tl.arange(0, RANKS)
    n = tl.arange(0, BLOCK_N)
    column = column_of(n, N, NEIGHBOURS)
    p = tl.arange(0, BLOCK_P)
    j = tl.arange(0, PAIRS)
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
    of_token = (b * heads + h) * length
    state_at = p[:, None] * N + column[None, :]
    in_state = (p < P)[:, None] & (n < N)[None, :]
    dstate = tl.zeros([BLOCK_P, BLOCK_N], tl.float32)
    dturn = tl.zeros([PAIRS], tl.float32)
    if HAS_LAST:
        dstate += tl.load(dssm_last_ptr + of_head * (P * N) + state_at, mask=in_state, other=0.0).to(tl.float32)
        dturn += tl.load(dangle_last_ptr + of_head * ANGLES + j, mask=j < ANGLES, other=0.0).to(tl.float32)
    dq_bias = tl.zeros([RANKS, BLOCK_N], tl.float32)
    dk_bias = tl.zeros([RANKS, BLOCK_N], tl.float32)
    dup = tl.zeros([RANKS, BLOCK_P], tl.float32)
    dgate = tl.zeros([RANKS, BLOCK_P], tl.float32)
    ddown = tl.zeros([RANKS, BLOCK_P], tl.float32)
    dD = tl.zeros([ROWS], tl.float32)
    projection_at = (head * RANK + r)[:, None] * P + p[None, :]
    dq_ptr += (b * length * RANK * heads + h) * N
    dk_ptr += (b * length * RANK * heads + h) * N
    token_row = b * length * heads + h
    dout_ptr += token_row * P if HAS_DOWN or RANK == 1 else (b * length * RANK * heads + h) * P
    dv_ptr += token_row * P
    dangles_ptr += token_row * ANGLES
    u = tl.arange(0, Q)
    token_at = (u * heads)[:, None] * P + p[None, :]
    row = (token * RANK + r) * heads
    chunks = tl.cdiv(end - begin, Q)
    for step in range(0, chunks):
        c = chunks - 1 - tl.cast(step, tl.int32)
        left = end - begin - c * Q
        first = (begin + c * Q).to(tl.int64)
        live = (token < left) & (r < RANK)
        once = live & (r == 0)
        in_P = live[:, None] & (p < P)[None, :]
        in_tokens = (u < left)[:, None] & (p < P)[None, :]
        chunk_at = tl.cast(chunk + c, tl.int64) * heads + h
        # the gradient of what a token puts out before D, gate and sum over ranks
        if HAS_DOWN or RANK == 1:
            dy_at = dout_ptr + first * heads * P + ((token * heads)[:, None] * P + p[None, :])
        else:
            dy_at = dout_ptr + first * (RANK * heads) * P + (row[:, None] * P + p[None, :])
        dy = tl.load(dy_at, mask=in_P, other=0.0).to(tl.float32)
        if HAS_DOWN or HAS_Z:
            y_at = ((b * length + first) * RANK * heads + h) * P + (row[:, None] * P + p[None, :])
            y = tl.load(ungated_ptr + y_at, mask=in_P, other=0.0).to(tl.float32)
            if HAS_Z:
                z = tl.load(z_ptr + first * z_l + (token[:, None] * z_l + p[None, :] * z_p), mask=in_P, other=0.0).to(tl.float32)
                gated = z
                if HAS_UP:
                    gate = tl.load(gate_ptr + projection_at, mask=in_P, other=0.0).to(tl.float32)
                    gated = z * gate
                bent = sigmoid(gated)
                silu = gated * bent
            if HAS_DOWN:
                if HAS_Z:
                    ddown += tl.sum(tl.reshape(dy * y * silu, [Q, RANKS, BLOCK_P]), axis=0)
                else:
                    ddown += tl.sum(tl.reshape(dy * y, [Q, RANKS, BLOCK_P]), axis=0)
                dy *= tl.load(down_ptr + projection_at, mask=in_P, other=0.0).to(tl.float32)
            if HAS_Z:
                dgated = dy * y * bent * (1.0 + gated * (1.0 - bent))
                if HAS_UP:
                    dgate += tl.sum(tl.reshape(dgated * z, [Q, RANKS, BLOCK_P]), axis=0)
                    dgated *= gate
                dz = tl.sum(tl.reshape(dgated, [Q, RANKS, BLOCK_P]), axis=1)
                dz_at = (token_row + first * heads) * P + token_at
                tl.store(dz_ptr + dz_at, dz.to(dz_ptr.dtype.element_ty), mask=in_tokens)
                dy *= silu
        narrow_dy = dy.to(kind)
        dt, trap, scale = steps_of(dt_ptr, dt_l, trap_ptr, trap_l, first, token, left, live)
        sums = running_sums(adt_ptr, adt_l, first, token, once, FLOAT64)
        total = last_of(sums, ROWS)
        reach = tl.exp2(sums)
        to_end = tl.exp2(total - sums)
        before = tl.load(turns_ptr + chunk_at * PAIRS + j)
        bent_angle, angles, _ = turned_by(angles_ptr, angles_l, angles_n, first, token, once, dt, before, ROWS, ANGLES, PAIRS)
        cosine, sine = cosine_and_sine(as_fraction(angles))
        wide_q = rotated(q_ptr, q_l, q_r, q_n, q_bias_ptr, first, token, r, live, cosine, sine, ROWS, N, BLOCK_N, NEIGHBOURS)
        wide_k = rotated(k_ptr, k_l, k_r, k_n, k_bias_ptr, first, token, r, live, cosine, sine, ROWS, N, BLOCK_N, NEIGHBOURS)
        q = wide_q.to(kind)
        k = wide_k.to(kind)
        raw_v = tl.load(v_ptr + first * v_l + (token[:, None] * v_l + p[None, :] * v_p), mask=in_P, other=0.0).to(tl.float32)
        wide_v = raw_v
        if HAS_UP:
            up = tl.load(up_ptr + projection_at, mask=in_P, other=0.0).to(tl.float32)
            wide_v = raw_v * up
        v = wide_v.to(kind)

        # inside the chunk; transposed, [u, t]: what keys and values get comes without another layout
        later = token[None, :] > token[:, None]
        own = token[None, :] == token[:, None]
        scores = tl.dot(k, tl.trans(q), input_precision=PRECISION)
        W = tl.dot(v, tl.trans(narrow_dy), input_precision=PRECISION)
        decay = tl.where(later, tl.exp2(tl.minimum(sums[None, :] - sums[:, None], 0.0)), 0.0)
        weights = tl.where(own, (trap * dt)[:, None], decay * scale[:, None])
        both = W * scores
        dgamma = tl.sum(tl.where(own, both, 0.0), axis=1)
        both *= decay
        dscale = tl.sum(both, axis=1)
        dsums = tl.sum(both * scale[:, None], axis=0) - dscale * scale
        dv = tl.dot((scores * weights).to(kind), narrow_dy, input_precision=PRECISION)
        dscores = (W * weights).to(kind)
        dk = tl.dot(dscores, q, input_precision=PRECISION)
        dq = tl.dot(tl.trans(dscores), k, input_precision=PRECISION)

        # through the state after the chunk
        narrow_dstate = dstate.to(kind)
        into = tl.dot(k, tl.trans(narrow_dstate), input_precision=PRECISION) * to_end[:, None]
        through = tl.sum(into * wide_v, axis=1)
        dscale += through
        dsums -= through * scale
        at_end = tl.sum(through.to(wide) * scale, axis=0)
        dv += into * scale[:, None]
        dk = tl.dot((wide_v * (to_end * scale)[:, None]).to(kind), narrow_dstate, acc=dk, input_precision=PRECISION)

        # through the state before it
        state = tl.load(states_ptr + chunk_at * (P * N) + state_at, mask=in_state, other=0.0)
        at_end += tl.sum(tl.sum(state.to(tl.float32) * dstate, axis=1), axis=0) * tl.exp2(total)
        from_state = tl.dot(q, tl.trans(state), input_precision=PRECISION)
        dsums += tl.sum(from_state * dy, axis=1) * reach
        reached = (dy * reach[:, None]).to(kind)
        dq = tl.dot(reached, state, acc=dq, input_precision=PRECISION)
        dstate = tl.dot(tl.trans(reached), q, acc=dstate * tl.exp2(total), input_precision=PRECISION)

        if HAS_D:
            D = tl.load(D_ptr + h).to(tl.float32)
            dD += tl.sum(dy * wide_v, axis=1)
            dv += D * dy
        if HAS_UP:
            dup += tl.sum(tl.reshape(dv * raw_v, [Q, RANKS, BLOCK_P]), axis=0)
            dv *= up
        dv_token = tl.sum(tl.reshape(dv, [Q, RANKS, BLOCK_P]), axis=1)
        if HAS_LAST:
            final = live & (token == left - 1)
            last_at = (s.to(tl.int64) * RANK * heads + h) * N + ((r * heads)[:, None] * N + column[None, :])
            dk += tl.load(dk_last_ptr + last_at, mask=final[:, None] & (n < N)[None, :], other=0.0).to(tl.float32)
            value_at = of_head * P + p[None, :] + u[:, None] * 0
            dv_token += tl.load(dv_last_ptr + value_at, mask=(u == left - 1)[:, None] & (p < P)[None, :], other=0.0).to(tl.float32)
        tl.store(dv_ptr + first * heads * P + token_at, dv_token.to(dv_ptr.dtype.element_ty), mask=in_tokens)

        row_start = first * (RANK * heads) * N
        dq_bias, of_angle = turned_back(dq_ptr + row_start, dq_bias, wide_q, dq, cosine, sine, row, live, Q, RANKS, N, BLOCK_N, NEIGHBOURS)
        dk_bias, more = turned_back(dk_ptr + row_start, dk_bias, wide_k, dk, cosine, sine, row, live, Q, RANKS, N, BLOCK_N, NEIGHBOURS)
        of_angle += more
        turn = dturn[None, :] + tl.cumsum(of_angle, axis=0, reverse=True)
        dturn += tl.sum(of_angle, axis=0)
        turn *= 3.141592653589793
        angle_at = first * heads * ANGLES + ((token * heads)[:, None] * ANGLES + j[None, :])
        of_logit = turn * dt[:, None] * (1.0 - bent_angle * bent_angle)
        tl.store(dangles_ptr + angle_at, of_logit.to(dangles_ptr.dtype.element_ty), mask=once[:, None] & (j < ANGLES)[None, :])
        tl.store(dstep_ptr + of_token + first + token, tl.sum(turn * bent_angle, axis=1), mask=once)
        # the sum s[t] stands in the exponents of row t and column t; the last one in those of the state as well
        suffix = tl.cumsum(dsums.to(wide), axis=0, reverse=True) + at_end
        tl.store(dadt_ptr + of_token + first + token, suffix.to(tl.float32), mask=once)
        dscale = of_ranks(dscale, Q, RANKS)
        tl.store(dgamma_ptr + of_token + first + u, of_ranks(dgamma, Q, RANKS) + dscale, mask=u < left)
        tl.store(dbeta_ptr + of_token + first + u + 1, dscale, mask=u + 1 < left)
    bias_at = of_head * (RANK * N) + ranks[:, None] * N + column[None, :]
    in_bias = (ranks < RANK)[:, None] & (n < N)[None, :]
    tl.store(dq_bias_ptr + bias_at, dq_bias, mask=in_bias)
    tl.store(dk_bias_ptr + bias_at, dk_bias, mask=in_bias)
    if HAS_D:
        tl.store(dD_ptr + of_head, tl.sum(dD, axis=0))
    at = of_head * (RANK * P) + ranks[:, None] * P + p[None, :]
    inside = (ranks < RANK)[:, None] & (p < P)[None, :]
    if HAS_UP:
        tl.store(dup_ptr + at, dup, mask=inside)
        if HAS_Z:
            tl.store(dgate_ptr + at, dgate, mask=inside)
    if HAS_DOWN:
        tl.store(ddown_ptr + at, ddown, mask=inside)
    first_dbeta = tl.full([], 0.0, tl.float32)
    if HAS_FIRST:
        dk_before = tl.zeros([BLOCK_N], tl.float32)
        dv_before = tl.zeros([BLOCK_P], tl.float32)
        if end > begin:
            at_first = begin.to(tl.int64)
            k_before = tl.load(k_first_ptr + of_head * N + column, mask=n < N, other=0.0).to(tl.float32)
            v_before = tl.load(v_first_ptr + of_head * P + p, mask=p < P, other=0.0).to(tl.float32)
            beta = sigmoid(-tl.load(trap_ptr + at_first * trap_l).to(tl.float32)) * tl.load(dt_ptr + at_first * dt_l).to(tl.float32)
            of_v = tl.sum(dstate * k_before[None, :], axis=1)
            dk_before += tl.sum(dstate * v_before[:, None], axis=0) * beta
            dv_before += of_v * beta
            first_dbeta += tl.sum(of_v * v_before, axis=0)
        elif HAS_LAST:
            dk_before += tl.load(dk_last_ptr + of_head * N + column, mask=n < N, other=0.0).to(tl.float32)
            dv_before += tl.load(dv_last_ptr + of_head * P + p, mask=p < P, other=0.0).to(tl.float32)
        tl.store(dk_first_ptr + of_head * N + column, dk_before, mask=n < N)
        tl.store(dv_first_ptr + of_head * P + p, dv_before, mask=p < P)
        tl.store(dssm_first_ptr + of_head * (P * N) + state_at, dstate, mask=in_state)
        tl.store(dangle_first_ptr + of_head * ANGLES + j, dturn, mask=j < ANGLES)
    if end > begin:
        tl.store(dbeta_ptr + of_token + begin, first_dbeta)


@triton.jit(do_not_specialize=["heads", "length"])
def mamba3_steps_backward_kernel(
    dt_ptr, trap_ptr, dgamma_ptr, dbeta_ptr, dstep_ptr, ddt_ptr, dtrap_ptr, dt_b, dt_h, dt_l, trap_b, trap_h, trap_l, heads, length,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of DT and Trap, (batch, heads, length) contiguous like dgamma, dbeta and dstep. Grid: (blocks of tokens, heads, batch)."""
    t = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    h = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    live = t < length
    dt = tl.load(dt_ptr + b * dt_b + h * dt_h + t.to(tl.int64) * dt_l, mask=live, other=0.0).to(tl.float32)
    trap = sigmoid(tl.load(trap_ptr + b * trap_b + h * trap_h + t.to(tl.int64) * trap_l, mask=live, other=0.0).to(tl.float32))
    at = (b * heads + h) * length + t
    dgamma = tl.load(dgamma_ptr + at, mask=live, other=0.0)
    dbeta = tl.load(dbeta_ptr + at, mask=live, other=0.0)
    ddt = tl.load(dstep_ptr + at, mask=live, other=0.0) + dgamma * trap + dbeta * (1.0 - trap)
    tl.store(ddt_ptr + at, ddt.to(ddt_ptr.dtype.element_ty), mask=live)
    tl.store(dtrap_ptr + at, ((dgamma - dbeta) * dt * trap * (1.0 - trap)).to(dtrap_ptr.dtype.element_ty), mask=live)

"""Mamba-3's scan, backward, chunk by chunk: a kernel for keys and values, and one for queries. The states before the chunks come from the
forward kernel, run again for them alone, and the gradients of those after them from mamba3_backward_walks.

In the words of forward.py, with L[t, u] = exp(s[t] - s[u]) for u < t and W[t, u] = dy[t] . v[u]: the gradient of the scores is
W (L scale + own gamma), that of an exponent s[t] is the sum of its row of W scores L scale less the sum of its column, and what passes
through the state before and after the chunk is added to both. No exponent stands in what a token gives itself: left in, it would be
added and subtracted again, and drown what decayed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from anymamba.backends.triton.mamba3.tokens import (
    as_fraction,
    chunk_of,
    column_of,
    cosine_and_sine,
)


@triton.jit
def turned_back(
    d_ptr, bias_ptr, turned, gradient, cosine, sine, row, n, live,
    Q: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr, NEIGHBOURS: tl.constexpr,
):  # fmt: skip
    """From the gradient of keys or queries as turned: stores that before the turn and its sum, the bias's. Returns the gradient of what a
    token is turned by, (Q, BLOCK_N / 2)."""
    ROWS: tl.constexpr = Q * RANKS
    a, b = tl.split(tl.reshape(turned.to(tl.float32), [ROWS, BLOCK_N // 2, 2]))
    da, db = tl.split(tl.reshape(gradient, [ROWS, BLOCK_N // 2, 2]))
    of_angle = tl.where(live[:, None], db * a - da * b, 0.0)
    before = tl.reshape(tl.join(da * cosine + db * sine, db * cosine - da * sine), [ROWS, BLOCK_N])
    before = tl.where(live[:, None], before, 0.0)
    column = column_of(n, N, NEIGHBOURS)
    tl.store(d_ptr + (row[:, None] * N + column[None, :]), before.to(d_ptr.dtype.element_ty), mask=live[:, None] & (n < N)[None, :])
    ranks = tl.arange(0, RANKS)
    of_bias = tl.sum(tl.reshape(before, [Q, RANKS, BLOCK_N]), axis=0)
    tl.store(bias_ptr + ranks[:, None] * N + column[None, :], of_bias, mask=(ranks < RANK)[:, None] & (n < N)[None, :])
    return tl.sum(tl.reshape(of_angle, [Q, RANKS, BLOCK_N // 2]), axis=1)


@triton.jit(do_not_specialize=["length", "heads"])
def mamba3_keys_backward_kernel(
    q_ptr, k_ptr, v_ptr, sums_ptr, scale_ptr, gamma_ptr, angles_ptr, up_ptr, D_ptr, borders_ptr,
    sequences_ptr, dstates_ptr, dy_ptr, dk_last_ptr, dv_last_ptr,
    dk_ptr, dv_ptr, dk_bias_ptr, dup_ptr, dD_ptr, of_angle_ptr, dsums_ptr, at_end_ptr, dgamma_ptr, dbeta_ptr,
    v_b, v_l, v_h, v_p, length, heads,
    Q: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr, P: tl.constexpr, N: tl.constexpr, ANGLES: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, NEIGHBOURS: tl.constexpr, PACKED: tl.constexpr, HAS_LAST: tl.constexpr,
    HAS_UP: tl.constexpr, HAS_D: tl.constexpr, FLOAT64: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: (heads, chunks of all). q, k: as the forward kernel turned them. dk: (batch, length, rank, heads, N), of each head; dv: (batch,
    length, heads, P). Gradients of parameters: (chunks of all, heads, ...) float32, to be added up. of_angle: (batch, length, heads,
    ANGLES), the share of the keys. dsums: (chunks of all, heads, rows), of the running sums, and at_end: (chunks of all, heads), of the
    last of them: the shares that do not come from states before chunks. dgamma, dbeta: (batch, heads, length)."""
    ROWS: tl.constexpr = Q * RANKS
    PAIRS: tl.constexpr = BLOCK_N // 2
    kind: tl.constexpr = v_ptr.dtype.element_ty
    wide: tl.constexpr = tl.float64 if FLOAT64 else tl.float32
    head = tl.program_id(0)
    h = head.to(tl.int64)
    chunk = tl.program_id(1)
    s, b, start, left = chunk_of(chunk, borders_ptr, sequences_ptr, length, Q, PACKED)
    if s >= 0:
        first = start.to(tl.int64)
        i = tl.arange(0, ROWS)
        token = i // RANKS
        r = i % RANKS
        n = tl.arange(0, BLOCK_N)
        p = tl.arange(0, BLOCK_P)
        j = tl.arange(0, PAIRS)
        u = tl.arange(0, Q)
        ranks = tl.arange(0, RANKS)
        column = column_of(n, N, NEIGHBOURS)
        live = (token < left) & (r < RANK)
        in_P = live[:, None] & (p < P)[None, :]
        chunk_at = tl.cast(chunk, tl.int64) * heads + h
        row = (token * RANK + r) * heads
        row_start = (b * length + first) * RANK * heads + h
        token_start = (b * length + first) * heads + h
        of_row = (b * heads + h) * length + first
        # after the last token the sums stay as they are
        sums = tl.load(sums_ptr + of_row + tl.minimum(token, left - 1))
        scale = tl.load(scale_ptr + of_row + token, mask=live, other=0.0)
        gamma = tl.load(gamma_ptr + of_row + token, mask=live, other=0.0)
        to_end = tl.exp2(tl.load(sums_ptr + of_row + tl.minimum(Q, left) - 1) - sums)
        row_n = row_start * N + (row[:, None] * N + n[None, :])
        in_N = live[:, None] & (n < N)[None, :]
        q = tl.load(q_ptr + row_n, mask=in_N, other=0.0)
        k = tl.load(k_ptr + row_n, mask=in_N, other=0.0)
        v_at = first * v_l + (token[:, None] * v_l + p[None, :] * v_p)
        raw_v = tl.load(v_ptr + b * v_b + h * v_h + v_at, mask=in_P, other=0.0)
        wide_v = raw_v.to(tl.float32)
        if HAS_UP:
            up = tl.load(up_ptr + ((head * RANK + r)[:, None] * P + p[None, :]), mask=in_P, other=0.0).to(tl.float32)
            wide_v *= up
        v = wide_v.to(kind)
        dy = tl.load(dy_ptr + row_start * P + (row[:, None] * P + p[None, :]), mask=in_P, other=0.0)

        # through the state after the chunk. The compiler lays out all products like the first: this one is wide, so that each warp takes
        # some of the columns and not all of them for a few rows
        dstate_at = chunk_at * (P * N) + (p[:, None] * N + column[None, :])
        dstate = tl.load(dstates_ptr + dstate_at, mask=(p < P)[:, None] & (n < N)[None, :], other=0.0)
        into = tl.dot(k, tl.trans(dstate), input_precision=PRECISION) * to_end[:, None]
        through = tl.sum(into * wide_v, axis=1)

        # inside the chunk; transposed, [u, t]: what keys and values get comes without another layout
        below = token[None, :] > token[:, None]
        own = token[None, :] == token[:, None]
        scores = tl.dot(k, tl.trans(q), input_precision=PRECISION)
        W = tl.dot(v, tl.trans(dy), input_precision=PRECISION)
        decay = tl.where(below, tl.exp2(tl.minimum(sums[None, :] - sums[:, None], 0.0)), 0.0)
        weights = tl.where(own, gamma[:, None], decay * scale[:, None])
        both = W * scores
        dgamma = tl.sum(tl.where(own, both, 0.0), axis=1)
        both *= decay
        dscale = tl.sum(both, axis=1)
        dsums = tl.sum(both * scale[:, None], axis=0) - dscale * scale
        dv = tl.dot((scores * weights).to(kind), dy, input_precision=PRECISION)
        dk = tl.dot((W * weights).to(kind), q, input_precision=PRECISION)

        dscale += through
        tl.store(dsums_ptr + chunk_at * ROWS + i, dsums - through * scale)
        tl.store(at_end_ptr + chunk_at, tl.sum(through.to(wide) * scale, axis=0).to(tl.float32))
        dv += into * scale[:, None]
        dk = tl.dot((wide_v * (to_end * scale)[:, None]).to(kind), dstate, acc=dk, input_precision=PRECISION)
        if HAS_D:
            D = tl.load(D_ptr + h).to(tl.float32)
            tl.store(dD_ptr + chunk_at, tl.sum(tl.sum(dy.to(tl.float32) * wide_v, axis=1), axis=0))
            dv += D * dy.to(tl.float32)
        if HAS_UP:
            dup = tl.sum(tl.reshape(dv * raw_v.to(tl.float32), [Q, RANKS, BLOCK_P]), axis=0)
            dup_at = chunk_at * (RANK * P) + (ranks[:, None] * P + p[None, :])
            tl.store(dup_ptr + dup_at, dup, mask=(ranks < RANK)[:, None] & (p < P)[None, :])
            dv *= up
        dv_token = tl.sum(tl.reshape(dv, [Q, RANKS, BLOCK_P]), axis=1)
        if HAS_LAST:
            final = live & (token == left - 1)
            last_at = (tl.cast(s, tl.int64) * RANK * heads + h) * N + ((r * heads)[:, None] * N + column[None, :])
            dk += tl.load(dk_last_ptr + last_at, mask=final[:, None] & (n < N)[None, :], other=0.0).to(tl.float32)
            value_at = (tl.cast(s, tl.int64) * heads + h) * P + p[None, :] + u[:, None] * 0
            dv_token += tl.load(dv_last_ptr + value_at, mask=(u == left - 1)[:, None] & (p < P)[None, :], other=0.0).to(tl.float32)
        dv_at = token_start * P + ((u * heads)[:, None] * P + p[None, :])
        tl.store(dv_ptr + dv_at, dv_token.to(dv_ptr.dtype.element_ty), mask=(u < left)[:, None] & (p < P)[None, :])
        of_token = (b * heads + h) * length + first + u
        dscale_token = tl.sum(tl.reshape(dscale, [Q, RANKS]), axis=1)
        tl.store(dgamma_ptr + of_token, tl.sum(tl.reshape(dgamma, [Q, RANKS]), axis=1) + dscale_token, mask=u < left)
        tl.store(dbeta_ptr + of_token + 1, dscale_token, mask=u + 1 < left)
        turn_at = token_start * ANGLES + ((token * heads)[:, None] * ANGLES + j[None, :])
        angles = tl.load(angles_ptr + turn_at, mask=live[:, None] & (j < ANGLES)[None, :], other=0)
        cosine, sine = cosine_and_sine(as_fraction(angles))
        dk_ptr += row_start * N
        dk_bias_ptr += chunk_at * (RANK * N)
        of_angle = turned_back(dk_ptr, dk_bias_ptr, k, dk, cosine, sine, row, n, live, Q, RANK, RANKS, N, BLOCK_N, NEIGHBOURS)
        angle_at = token_start * ANGLES + ((u * heads)[:, None] * ANGLES + j[None, :])
        tl.store(of_angle_ptr + angle_at, of_angle, mask=(u < left)[:, None] & (j < ANGLES)[None, :])


@triton.jit(do_not_specialize=["length", "heads"])
def mamba3_queries_backward_kernel(
    q_ptr, k_ptr, v_ptr, sums_ptr, scale_ptr, gamma_ptr, angles_ptr, up_ptr, borders_ptr,
    sequences_ptr, states_ptr, dstates_ptr, dy_ptr, dsums_ptr, at_end_ptr, dq_ptr, dq_bias_ptr, of_angle_ptr, dadt_ptr,
    v_b, v_l, v_h, v_p, length, heads,
    Q: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr, P: tl.constexpr, N: tl.constexpr, ANGLES: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, NEIGHBOURS: tl.constexpr, PACKED: tl.constexpr, HAS_UP: tl.constexpr,
    FLOAT64: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """After mamba3_keys_backward_kernel, whose grid and layouts are the same: adds the queries' share to of_angle, and puts the gradient of
    ADT together, (batch, heads, length)."""
    ROWS: tl.constexpr = Q * RANKS
    PAIRS: tl.constexpr = BLOCK_N // 2
    kind: tl.constexpr = v_ptr.dtype.element_ty
    wide: tl.constexpr = tl.float64 if FLOAT64 else tl.float32
    head = tl.program_id(0)
    h = head.to(tl.int64)
    chunk = tl.program_id(1)
    s, b, start, left = chunk_of(chunk, borders_ptr, sequences_ptr, length, Q, PACKED)
    if s >= 0:
        first = start.to(tl.int64)
        i = tl.arange(0, ROWS)
        token = i // RANKS
        r = i % RANKS
        n = tl.arange(0, BLOCK_N)
        p = tl.arange(0, BLOCK_P)
        j = tl.arange(0, PAIRS)
        u = tl.arange(0, Q)
        column = column_of(n, N, NEIGHBOURS)
        live = (token < left) & (r < RANK)
        in_P = live[:, None] & (p < P)[None, :]
        chunk_at = tl.cast(chunk, tl.int64) * heads + h
        row = (token * RANK + r) * heads
        row_start = (b * length + first) * RANK * heads + h
        token_start = (b * length + first) * heads + h
        of_row = (b * heads + h) * length + first
        # after the last token the sums stay as they are
        sums = tl.load(sums_ptr + of_row + tl.minimum(token, left - 1))
        scale = tl.load(scale_ptr + of_row + token, mask=live, other=0.0)
        gamma = tl.load(gamma_ptr + of_row + token, mask=live, other=0.0)
        reach = tl.exp2(sums)
        row_n = row_start * N + (row[:, None] * N + n[None, :])
        in_N = live[:, None] & (n < N)[None, :]
        v_at = first * v_l + (token[:, None] * v_l + p[None, :] * v_p)
        v = tl.load(v_ptr + b * v_b + h * v_h + v_at, mask=in_P, other=0.0)
        if HAS_UP:
            up = tl.load(up_ptr + ((head * RANK + r)[:, None] * P + p[None, :]), mask=in_P, other=0.0).to(tl.float32)
            v = (v.to(tl.float32) * up).to(kind)
        dy = tl.load(dy_ptr + row_start * P + (row[:, None] * P + p[None, :]), mask=in_P, other=0.0)
        in_state = (p < P)[:, None] & (n < N)[None, :]
        state_at = chunk_at * (P * N) + (p[:, None] * N + column[None, :])
        state = tl.load(states_ptr + state_at, mask=in_state, other=0.0)
        dstate = tl.load(dstates_ptr + state_at, mask=in_state, other=0.0)
        total = tl.load(sums_ptr + of_row + tl.minimum(Q, left) - 1)
        at_end = tl.sum(tl.sum(state.to(tl.float32) * dstate.to(tl.float32), axis=1), axis=0) * tl.exp2(total)
        # first for the sake of the layout, see above
        q = tl.load(q_ptr + row_n, mask=in_N, other=0.0)
        from_state = tl.dot(q, tl.trans(state), input_precision=PRECISION)
        dsums = tl.load(dsums_ptr + chunk_at * ROWS + i) + tl.sum(from_state * dy.to(tl.float32), axis=1) * reach
        W = tl.dot(dy, tl.trans(v), input_precision=PRECISION)
        weights = tl.exp2(tl.minimum(sums[:, None] - sums[None, :], 0.0)) * scale[None, :]
        weights = tl.where(token[:, None] == token[None, :], gamma[None, :], weights)
        dscores = tl.where(token[:, None] >= token[None, :], W * weights, 0.0).to(kind)
        k = tl.load(k_ptr + row_n, mask=in_N, other=0.0)
        dq = tl.dot(dscores, k, input_precision=PRECISION)
        reached = (dy.to(tl.float32) * reach[:, None]).to(kind)
        dq = tl.dot(reached, state, acc=dq, input_precision=PRECISION)
        at_end += tl.load(at_end_ptr + chunk_at)
        # the sum s[t] stands in the exponents of row t and column t; the last one in those of the state as well
        suffix = tl.cumsum(dsums.to(wide), axis=0, reverse=True) + at_end
        tl.store(dadt_ptr + (b * heads + h) * length + first + token, suffix.to(tl.float32), mask=live & (r == 0))
        turn_at = token_start * ANGLES + ((token * heads)[:, None] * ANGLES + j[None, :])
        angles = tl.load(angles_ptr + turn_at, mask=live[:, None] & (j < ANGLES)[None, :], other=0)
        cosine, sine = cosine_and_sine(as_fraction(angles))
        dq_ptr += row_start * N
        dq_bias_ptr += chunk_at * (RANK * N)
        of_angle = turned_back(dq_ptr, dq_bias_ptr, q, dq, cosine, sine, row, n, live, Q, RANK, RANKS, N, BLOCK_N, NEIGHBOURS)
        angle_at = token_start * ANGLES + ((u * heads)[:, None] * ANGLES + j[None, :])
        inside = (u < left)[:, None] & (j < ANGLES)[None, :]
        tl.store(of_angle_ptr + angle_at, tl.load(of_angle_ptr + angle_at, mask=inside, other=0.0) + of_angle, mask=inside)

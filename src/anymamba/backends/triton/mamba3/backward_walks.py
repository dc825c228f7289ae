"""The parts of Mamba-3's backward pass that go through a sequence from its last chunk to its first: the gradient of the state, and that of
the angles, for an angle turns all keys and queries from its token on. What both leave behind, backward.py takes chunk by chunk."""

from __future__ import annotations

import triton
import triton.language as tl

from anymamba.backends.triton.elementary import sigmoid
from anymamba.backends.triton.mamba3.tokens import column_of, sequence_of, tanh


@triton.jit(do_not_specialize=["length", "heads", "zero"])
def mamba3_dstate_kernel(
    dout_ptr, q_ptr, sums_ptr, dt_ptr, trap_ptr, gate_ptr, down_ptr, z_ptr, borders_ptr, ungated_ptr,
    k_first_ptr, v_first_ptr, dssm_last_ptr, dk_last_ptr, dv_last_ptr,
    dy_ptr, dz_ptr, dstates_ptr, dgate_ptr, ddown_ptr, dbeta_ptr, dssm_first_ptr, dk_first_ptr, dv_first_ptr,
    dt_b, dt_h, dt_l, trap_b, trap_h, trap_l, z_b, z_l, z_h, z_p, length, heads, zero,
    Q: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, NEIGHBOURS: tl.constexpr, PACKED: tl.constexpr, HAS_FIRST: tl.constexpr,
    HAS_LAST: tl.constexpr, HAS_UP: tl.constexpr, HAS_DOWN: tl.constexpr, HAS_Z: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: (heads * blocks of N, sequences); one block with HAS_FIRST. Leaves dstates, the gradient of the state after each chunk, (chunks
    of all, heads, P, N); dy, the gradient of the output before gate and sum over ranks, (batch, length, rank, heads, P); dz; and of each
    sequence the gradients of its projections and of the states that it began with. dbeta: that of its first token. q, sums: as
    mamba3_rotate_kernel leaves them. Of what is handed in as first and last, and the layouts: see mamba3_walk_kernel."""
    ROWS: tl.constexpr = Q * RANKS
    kind: tl.constexpr = dy_ptr.dtype.element_ty
    parts: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    head = tl.program_id(0) // parts
    h = head.to(tl.int64)
    part = tl.program_id(0) % parts
    s = tl.program_id(1)
    b, begin, end, chunk = sequence_of(s, borders_ptr, length, Q, PACKED)
    # what does not belong to a part of the states is stored by the first
    P_here = tl.where(part == 0, P, 0)
    dt_ptr += b * dt_b + h * dt_h
    trap_ptr += b * trap_b + h * trap_h
    if HAS_Z:
        z_ptr += b * z_b + h * z_h
    of_head = s.to(tl.int64) * heads + h
    n = part * BLOCK_N + tl.arange(0, BLOCK_N)
    p = tl.arange(0, BLOCK_P)
    state_at = p[:, None] * N + column_of(n, N, NEIGHBOURS)[None, :]
    in_state = (p < P)[:, None] & (n < N)[None, :]
    dstate = tl.zeros([BLOCK_P, BLOCK_N], tl.float32)
    if HAS_LAST:
        dstate += tl.load(dssm_last_ptr + of_head * (P * N) + state_at, mask=in_state, other=0.0).to(tl.float32)
    dgate = tl.zeros([RANKS, BLOCK_P], tl.float32)
    ddown = tl.zeros([RANKS, BLOCK_P], tl.float32)
    chunks = tl.cdiv(end - begin, Q)
    for step in range(0, chunks):
        c = chunks - 1 - tl.cast(step, tl.int32)
        # zero, known only in the loop: what depends on it is computed there, and not kept in registers all along; a multiple of 16, so
        # that rows are still known to be aligned
        later = (zero & c) * 16
        i = tl.arange(0, ROWS) + later
        token = i // RANKS
        r = i % RANKS
        n = part * BLOCK_N + tl.arange(0, BLOCK_N) + later
        p = tl.arange(0, BLOCK_P) + later
        left = end - begin - c * Q
        first = (begin + c * Q).to(tl.int64)
        live = (token < left) & (r < RANK)
        in_P = live[:, None] & (p < P)[None, :]
        chunk_at = tl.cast(chunk + c, tl.int64) * heads + h
        state_at = p[:, None] * N + column_of(n, N, NEIGHBOURS)[None, :]
        in_state = (p < P)[:, None] & (n < N)[None, :]
        tl.store(dstates_ptr + chunk_at * (P * N) + state_at, dstate.to(dstates_ptr.dtype.element_ty), mask=in_state)
        projection_at = (head * RANK + r)[:, None] * P + p[None, :]
        row_at = ((b * length + first) * RANK * heads + h) * P + (((token * RANK + r) * heads)[:, None] * P + p[None, :])
        token_ptr = (b * length + first) * heads + h
        if HAS_DOWN or RANK == 1:
            dy = tl.load(dout_ptr + token_ptr * P + ((token * heads)[:, None] * P + p[None, :]), mask=in_P, other=0.0).to(tl.float32)
        else:
            dy = tl.load(dout_ptr + row_at, mask=in_P, other=0.0).to(tl.float32)
        if HAS_DOWN or HAS_Z:
            y = tl.load(ungated_ptr + row_at, mask=in_P, other=0.0).to(tl.float32)
            silu = 1.0
            if HAS_Z:
                z = tl.load(z_ptr + first * z_l + (token[:, None] * z_l + p[None, :] * z_p), mask=in_P, other=0.0).to(tl.float32)
                gate = 1.0
                if HAS_UP:
                    gate = tl.load(gate_ptr + projection_at, mask=in_P, other=0.0).to(tl.float32)
                gated = z * gate
                bent = sigmoid(gated)
                silu = gated * bent
            if HAS_DOWN:
                ddown += tl.sum(tl.reshape(dy * y * silu, [Q, RANKS, BLOCK_P]), axis=0)
                dy *= tl.load(down_ptr + projection_at, mask=in_P, other=0.0).to(tl.float32)
            if HAS_Z:
                dgated = dy * y * bent * (1.0 + gated * (1.0 - bent))
                dgate += tl.sum(tl.reshape(dgated * z, [Q, RANKS, BLOCK_P]), axis=0)
                dz = tl.sum(tl.reshape(dgated * gate, [Q, RANKS, BLOCK_P]), axis=1)
                u = tl.arange(0, Q) + later
                dz_at = token_ptr * P + ((u * heads)[:, None] * P + p[None, :])
                tl.store(dz_ptr + dz_at, dz.to(dz_ptr.dtype.element_ty), mask=(u < left)[:, None] & (p < P_here)[None, :])
                dy *= silu
        tl.store(dy_ptr + row_at, dy.to(kind), mask=live[:, None] & (p < P_here)[None, :])
        of_row = (b * heads + h) * length + first
        # after the last token the sums stay as they are
        sums = tl.load(sums_ptr + of_row + tl.minimum(token, left - 1))
        total = tl.load(sums_ptr + of_row + tl.minimum(Q, left) - 1)
        q_at = ((b * length + first) * RANK * heads + h) * N + (((token * RANK + r) * heads)[:, None] * N + n[None, :])
        q = tl.load(q_ptr + q_at, mask=live[:, None] & (n < N)[None, :], other=0.0)
        reached = (dy * tl.exp2(sums)[:, None]).to(kind)
        dstate = tl.dot(tl.trans(reached), q, acc=dstate * tl.exp2(total), input_precision=PRECISION)
    n = part * BLOCK_N + tl.arange(0, BLOCK_N)
    p = tl.arange(0, BLOCK_P)
    ranks = tl.arange(0, RANKS)
    at = of_head * (RANK * P) + ranks[:, None] * P + p[None, :]
    inside = (ranks < RANK)[:, None] & (p < P_here)[None, :]
    if HAS_UP and HAS_Z:
        tl.store(dgate_ptr + at, dgate, mask=inside)
    if HAS_DOWN:
        tl.store(ddown_ptr + at, ddown, mask=inside)
    first_dbeta = tl.full([], 0.0, tl.float32)
    if HAS_FIRST:
        column = column_of(n, N, NEIGHBOURS)
        state_at = p[:, None] * N + column[None, :]
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
        tl.store(dssm_first_ptr + of_head * (P * N) + state_at, dstate, mask=(p < P)[:, None] & (n < N)[None, :])
    if end > begin:
        tl.store(dbeta_ptr + (b * heads + h) * length + begin, first_dbeta)


@triton.jit(do_not_specialize=["length", "heads", "zero"])
def mamba3_angles_backward_kernel(
    angles_ptr, dt_ptr, trap_ptr, of_angle_ptr, dgamma_ptr, dbeta_ptr, borders_ptr, dangle_last_ptr,
    dangles_ptr, ddt_ptr, dtrap_ptr, dangle_first_ptr,
    angles_b, angles_l, angles_h, angles_n, dt_b, dt_h, dt_l, trap_b, trap_h, trap_l, length, heads, zero,
    Q: tl.constexpr, ANGLES: tl.constexpr, PAIRS: tl.constexpr, PACKED: tl.constexpr, HAS_FIRST: tl.constexpr, HAS_LAST: tl.constexpr,
):  # fmt: skip
    """Grid: (heads, sequences). of_angle: (batch, length, heads, ANGLES), the gradient of what a token is turned by; dgamma, dbeta: (batch,
    heads, length), of what its own and the last key enter with. Leaves those of Angles, laid out like of_angle, DT and Trap."""
    h = tl.program_id(0).to(tl.int64)
    s = tl.program_id(1)
    b, begin, end, _ = sequence_of(s, borders_ptr, length, Q, PACKED)
    angles_ptr += b * angles_b + h * angles_h
    dt_ptr += b * dt_b + h * dt_h
    trap_ptr += b * trap_b + h * trap_h
    of_head = s.to(tl.int64) * heads + h
    j = tl.arange(0, PAIRS)
    dturn = tl.zeros([PAIRS], tl.float32)
    if HAS_LAST:
        dturn += tl.load(dangle_last_ptr + of_head * ANGLES + j, mask=j < ANGLES, other=0.0).to(tl.float32)
    chunks = tl.cdiv(end - begin, Q)
    for step in range(0, chunks):
        c = chunks - 1 - tl.cast(step, tl.int32)
        later = (zero & c) * 16
        u = tl.arange(0, Q) + later
        j = tl.arange(0, PAIRS) + later
        first = (begin + c * Q).to(tl.int64)
        live = u < end - begin - c * Q
        inside = live[:, None] & (j < ANGLES)[None, :]
        at = ((b * length + first) * heads + h) * ANGLES + ((u * heads)[:, None] * ANGLES + j[None, :])
        of_angle = tl.load(of_angle_ptr + at, mask=inside, other=0.0)
        logits = tl.load(angles_ptr + first * angles_l + (u[:, None] * angles_l + j[None, :] * angles_n), mask=inside, other=0.0)
        bent = tanh(logits.to(tl.float32))
        dt = tl.load(dt_ptr + first * dt_l + u * dt_l, mask=live, other=0.0).to(tl.float32)
        trap = sigmoid(tl.load(trap_ptr + first * trap_l + u * trap_l, mask=live, other=0.0).to(tl.float32))
        turn = (dturn[None, :] + tl.cumsum(of_angle, axis=0, reverse=True)) * 3.141592653589793
        dturn += tl.sum(of_angle, axis=0)
        tl.store(dangles_ptr + at, (turn * dt[:, None] * (1.0 - bent * bent)).to(dangles_ptr.dtype.element_ty), mask=inside)
        row = (b * heads + h) * length + first + u
        dgamma = tl.load(dgamma_ptr + row, mask=live, other=0.0)
        dbeta = tl.load(dbeta_ptr + row, mask=live, other=0.0)
        ddt = tl.sum(turn * bent, axis=1) + dgamma * trap + dbeta * (1.0 - trap)
        tl.store(ddt_ptr + row, ddt.to(ddt_ptr.dtype.element_ty), mask=live)
        tl.store(dtrap_ptr + row, ((dgamma - dbeta) * dt * trap * (1.0 - trap)).to(dtrap_ptr.dtype.element_ty), mask=live)
    if HAS_FIRST:
        j = tl.arange(0, PAIRS)
        tl.store(dangle_first_ptr + of_head * ANGLES + j, dturn, mask=j < ANGLES)

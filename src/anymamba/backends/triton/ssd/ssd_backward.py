"""Mamba-2's scan, backward. The states and their gradients come from two walks over the chunks (ssd_walk_kernel); then all chunks
are handled at once, in three parts with programs of their own: columns, rows and inside.

With s[t] the running sum of dt * A inside a chunk, L[t, s] = exp(s[t] - s[s]) for t >= s and M = C B^T * L,

    out[t] = sum over s of M[t, s] dt[s] x[s] + exp(s[t]) C[t] . state + D x[t]

A program takes one chunk and several heads, one after another. Columns are the tokens s: dx, and the share of dB that passes through
the state after the chunk. Rows are the tokens t: the share of dC that comes from the state before the chunk. Inside is what both have
through C B^T, and the gradients of the exponents. A program keeps one large sum in registers, not three, so several of them fit on a
multiprocessor and one computes while another waits for memory. Columns and inside compute the transposes of the matrices, so that
no tile changes its layout between two products.

headdim is cut into parts of at most BLOCK_P: they are heads of their own with the same step sizes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from anymamba.backends.triton.ssd.ssd_forward import over_states


@triton.jit
def heads_of_block(place, heads_per_group, together, PARTS: tl.constexpr):
    """Group, number of the block in its group, first part of a head, one after the last."""
    blocks = tl.cdiv(heads_per_group, together)
    g = place // blocks
    block = place % blocks
    first = g * heads_per_group + block * together
    last = tl.minimum(first + together, (g + 1) * heads_per_group)
    return g, block, first * PARTS, last * PARTS


@triton.jit
def tile_of_sums(c, length, groups, later, Q: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr):
    """Offsets and mask of a chunk's tile of dB or dC. later: 0, known only when the loop over the heads is through; what depends on it
    is not computed before the loop and kept in registers all along."""
    q = tl.arange(0, Q) ^ later
    n = tl.arange(0, BLOCK_N)
    return q[:, None] * (groups * N) + n[None, :], (c * Q + q < length)[:, None] & (n < N)[None, :]


@triton.jit
def ssd_columns(
    x_ptr, dy_ptr, low_ptr, B_ptr, C_ptr, D_ptr, steps_ptr, sums_ptr, documents_ptr, dstates_ptr,
    dx_ptr, dB_ptr, into_state_ptr, dD_ptr,
    x_b, x_l: tl.constexpr, x_h, x_p: tl.constexpr, dy_b, dy_l: tl.constexpr, dy_h, dy_p: tl.constexpr,
    B_b, B_l, B_g, B_n, C_b, C_l, C_g, C_n, D_h, D_p,
    place, c, b, batch, chunks, length, padded, heads: tl.constexpr, heads_per_group, together, zero,
    Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_LOW: tl.constexpr, WIDE_D: tl.constexpr, HAS_SEQ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    PARTS: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    WHOLE: tl.constexpr = BLOCK_K >= BLOCK_N
    g, block, first, last = heads_of_block(place, heads_per_group, together, PARTS)
    n = tl.arange(0, BLOCK_N)
    q = tl.arange(0, Q)
    t = c * Q + q
    start = (c * Q).to(tl.int64)
    rows = (t < length)[:, None]
    in_N = rows & (n < N)[None, :]
    if WHOLE:
        B = tl.load(B_ptr + b * B_b + g.to(tl.int64) * B_g + start * B_l + (q[:, None] * B_l + n[None, :] * B_n), mask=in_N, other=0.0)
        C = tl.load(C_ptr + b * C_b + g.to(tl.int64) * C_g + start * C_l + (q[:, None] * C_l + n[None, :] * C_n), mask=in_N, other=0.0)
    else:
        B_rows = B_ptr + b * B_b + g.to(tl.int64) * B_g + start * B_l + q[:, None] * B_l
        C_rows = C_ptr + b * C_b + g.to(tl.int64) * C_g + start * C_l + q[:, None] * C_l
    causal = q[:, None] <= q[None, :]
    diagonal = q[:, None] == q[None, :]
    if HAS_SEQ:
        documents_ptr += b * padded
        documents = tl.load(documents_ptr + t)
        after = tl.load(documents_ptr + c * Q + Q - 1)
        causal = causal & (documents[:, None] == documents[None, :])
    if WHOLE:
        CB = tl.dot(B, tl.trans(C), input_precision=PRECISION)
    else:
        CB = over_states(B_rows, B_n, rows, C_rows, C_n, rows, Q, Q, N, BLOCK_K, PRECISION)
    CB = tl.where(causal, CB, 0.0)
    groups = heads // heads_per_group
    dB_ptr += (((block * batch + b) * length + start) * groups + g) * N
    dB = tl.zeros([Q, BLOCK_N], tl.float32)
    x_ptr += b * x_b + start * x_l
    dy_ptr += b * dy_b + start * dy_l
    if HAS_LOW:
        low_ptr += b * dy_b + start * dy_l
    sums_ptr += b * heads * padded + start
    steps_ptr += b * heads * padded + start
    into_state_ptr += b * heads * PARTS * padded + start
    dstates_ptr += (b * chunks + c) * heads * (P * N)
    dx_ptr += (b * length + start) * heads * P
    if WIDE_D:
        dD_ptr += (b * chunks + c) * heads * P
    later = zero
    for j in range(first, last):
        i = j ^ zero
        later &= i
        head = tl.cast(i // PARTS, tl.int64)
        p = (i % PARTS) * BLOCK_P + tl.arange(0, BLOCK_P)
        in_P = rows & (p < P)[None, :]
        in_state = (p < P)[:, None] & (n < N)[None, :]
        x = tl.load(x_ptr + head * x_h + (q[:, None] * x_l + p[None, :] * x_p), mask=in_P, other=0.0)
        dy = tl.load(dy_ptr + head * dy_h + (q[:, None] * dy_l + p[None, :] * dy_p), mask=in_P, other=0.0)
        state_at = head * (P * N)
        dstate = tl.load(dstates_ptr + state_at + (p[:, None] * N + n[None, :]), mask=in_state, other=0.0)
        sums = tl.load(sums_ptr + head * padded + q)
        steps = tl.load(steps_ptr + head * padded + q)
        to_end = tl.exp2(tl.load(sums_ptr + head * padded + Q - 1) - sums)
        if HAS_SEQ:
            to_end = tl.where(documents == after, to_end, 0.0)
        weighted = (x.to(tl.float32) * (to_end * steps)[:, None]).to(dstate.dtype)
        dB = tl.dot(weighted, dstate, acc=dB, input_precision=PRECISION)
        # gradient of dt * x, times dt. CB is zero where a token is not seen; the minimum keeps the decay finite there
        if WHOLE:
            v = tl.dot(B, tl.trans(dstate), input_precision=PRECISION)
        else:
            dstate_rows = dstates_ptr + state_at + p[:, None] * N
            v = over_states(B_rows, B_n, rows, dstate_rows, 1, (p < P)[:, None], Q, BLOCK_P, N, BLOCK_K, PRECISION)
        tl.store(into_state_ptr + tl.cast(i, tl.int64) * padded + q, to_end * tl.sum(v * x.to(tl.float32), axis=1))
        if not WIDE_D:
            # D goes onto the diagonal of mixing. Rounded to 16 bits it would be off by one factor for all tokens of a head: all is
            # divided by that factor beforehand, and multiplied afterwards
            D = tl.load(D_ptr + head * D_h).to(tl.float32)
            narrow = D.to(x.dtype).to(tl.float32)
            ratio = tl.where(narrow == 0.0, 1.0, D / narrow)
            steps /= ratio
        v *= (to_end * steps)[:, None]
        mixing = (CB * steps[:, None]) * tl.exp2(tl.minimum(sums[None, :] - sums[:, None], 0.0))
        if not WIDE_D:
            mixing += tl.where(diagonal, narrow, 0.0)
        v = tl.dot(mixing.to(dy.dtype), dy, acc=v, input_precision=PRECISION)
        if not WIDE_D:
            v *= ratio
        if WIDE_D:
            exact = dy.to(tl.float32)
            if HAS_LOW:
                low_at = low_ptr + head * dy_h + (q[:, None] * dy_l + p[None, :] * dy_p)
                exact += tl.load(low_at, mask=in_P, other=0.0).to(tl.float32)
            D = tl.load(D_ptr + head * D_h + p * D_p, mask=p < P, other=0.0).to(tl.float32)
            v += D[None, :] * exact
            dD_at = dD_ptr + head * P + p
            tl.store(dD_at, tl.sum(exact * x.to(tl.float32), axis=0), mask=p < P)
        dx_at = q[:, None] * (heads * P) + p[None, :]
        tl.store(dx_ptr + head * P + dx_at, v.to(dx_ptr.dtype.element_ty), mask=in_P)
    at, in_N = tile_of_sums(c, length, groups, later, Q, N, BLOCK_N)
    tl.store(dB_ptr + at, dB, mask=in_N)


@triton.jit
def ssd_rows(
    dy_ptr, low_ptr, C_ptr, sums_ptr, documents_ptr, states_ptr, dstates_ptr, dC_ptr, of_row_ptr, carried_ptr,
    dy_b, dy_l: tl.constexpr, dy_h, dy_p: tl.constexpr, C_b, C_l, C_g, C_n,
    place, c, b, batch, chunks, length, padded, heads: tl.constexpr, heads_per_group, together, zero,
    Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_LOW: tl.constexpr, HAS_SEQ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    PARTS: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    WHOLE: tl.constexpr = BLOCK_K >= BLOCK_N
    g, block, first, last = heads_of_block(place, heads_per_group, together, PARTS)
    n = tl.arange(0, BLOCK_N)
    q = tl.arange(0, Q)
    t = c * Q + q
    start = (c * Q).to(tl.int64)
    rows = (t < length)[:, None]
    in_N = rows & (n < N)[None, :]
    if WHOLE:
        C = tl.load(C_ptr + b * C_b + g.to(tl.int64) * C_g + start * C_l + (q[:, None] * C_l + n[None, :] * C_n), mask=in_N, other=0.0)
    else:
        C_rows = C_ptr + b * C_b + g.to(tl.int64) * C_g + start * C_l + q[:, None] * C_l
    if HAS_SEQ:
        documents_ptr += b * padded
        documents = tl.load(documents_ptr + t)
        before = tl.load(documents_ptr + tl.maximum(c * Q - 1, 0)) * tl.where(c > 0, 1, 0)
        after = tl.load(documents_ptr + c * Q + Q - 1)
    groups = heads // heads_per_group
    dC_ptr += (((block * batch + b) * length + start) * groups + g) * N
    dC = tl.zeros([Q, BLOCK_N], tl.float32)
    dy_ptr += b * dy_b + start * dy_l
    if HAS_LOW:
        low_ptr += b * dy_b + start * dy_l
    sums_ptr += b * heads * padded + start
    of_row_ptr += b * heads * PARTS * padded + start
    carried_ptr += (b * chunks + c) * heads * PARTS
    states_ptr += (b * chunks + c) * heads * (P * N)
    dstates_ptr += (b * chunks + c) * heads * (P * N)
    later = zero
    for j in range(first, last):
        i = j ^ zero
        later &= i
        head = tl.cast(i // PARTS, tl.int64)
        p = (i % PARTS) * BLOCK_P + tl.arange(0, BLOCK_P)
        in_state = (p < P)[:, None] & (n < N)[None, :]
        reach = tl.exp2(tl.load(sums_ptr + head * padded + q))
        carried = tl.exp2(tl.load(sums_ptr + head * padded + Q - 1))
        if HAS_SEQ:
            reach = tl.where(documents == before, reach, 0.0)
            carried = tl.where(before == after, carried, 0.0)
        in_P = rows & (p < P)[None, :]
        dy_at = head * dy_h + (q[:, None] * dy_l + p[None, :] * dy_p)
        dy = tl.load(dy_ptr + dy_at, mask=in_P, other=0.0)
        at = p[:, None] * N + n[None, :]
        state_at = head * (P * N)
        state = tl.load(states_ptr + state_at + at, mask=in_state, other=0.0)
        dstate = tl.load(dstates_ptr + state_at + at, mask=in_state, other=0.0)
        # before the products of matrices, so that both states leave the registers
        product = tl.sum(tl.sum(state.to(tl.float32) * dstate.to(tl.float32), axis=1), axis=0)
        tl.store(carried_ptr + i, carried * product)
        if WHOLE:
            from_state = tl.dot(C, tl.trans(state), input_precision=PRECISION)
        else:
            state_rows = states_ptr + state_at + p[:, None] * N
            from_state = over_states(C_rows, C_n, rows, state_rows, 1, (p < P)[:, None], Q, BLOCK_P, N, BLOCK_K, PRECISION)
        of_row = tl.sum(from_state * dy.to(tl.float32), axis=1)
        if HAS_LOW:
            low = tl.load(low_ptr + dy_at, mask=in_P, other=0.0).to(tl.float32)
            of_row += tl.sum(from_state * low, axis=1)
        tl.store(of_row_ptr + tl.cast(i, tl.int64) * padded + q, of_row * reach)
        weighted = dy.to(tl.float32) * reach[:, None]
        dC = tl.dot(weighted.to(state.dtype), state, acc=dC, input_precision=PRECISION)
    at, in_N = tile_of_sums(c, length, groups, later, Q, N, BLOCK_N)
    tl.store(dC_ptr + at, dC, mask=in_N)


@triton.jit
def ssd_inside(
    x_ptr, dy_ptr, low_ptr, B_ptr, C_ptr, steps_ptr, sums_ptr, documents_ptr,
    dB_ptr, dC_ptr, of_row_ptr, of_column_ptr, own_ptr, own_CB_ptr,
    x_b, x_l: tl.constexpr, x_h, x_p: tl.constexpr, dy_b, dy_l: tl.constexpr, dy_h, dy_p: tl.constexpr,
    B_b, B_l, B_g, B_n, C_b, C_l, C_g, C_n,
    place, c, b, batch, length, padded, heads: tl.constexpr, heads_per_group, together, zero,
    Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_LOW: tl.constexpr, HAS_SEQ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    PARTS: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    WHOLE: tl.constexpr = BLOCK_K >= BLOCK_N
    g, block, first, last = heads_of_block(place, heads_per_group, together, PARTS)
    n = tl.arange(0, BLOCK_N)
    q = tl.arange(0, Q)
    t = c * Q + q
    start = (c * Q).to(tl.int64)
    rows = (t < length)[:, None]
    in_N = rows & (n < N)[None, :]
    if WHOLE:
        B = tl.load(B_ptr + b * B_b + g.to(tl.int64) * B_g + start * B_l + (q[:, None] * B_l + n[None, :] * B_n), mask=in_N, other=0.0)
        C = tl.load(C_ptr + b * C_b + g.to(tl.int64) * C_g + start * C_l + (q[:, None] * C_l + n[None, :] * C_n), mask=in_N, other=0.0)
    else:
        B_rows = B_ptr + b * B_b + g.to(tl.int64) * B_g + start * B_l + q[:, None] * B_l
        C_rows = C_ptr + b * C_b + g.to(tl.int64) * C_g + start * C_l + q[:, None] * C_l
    causal = q[:, None] <= q[None, :]
    if HAS_SEQ:
        documents = tl.load(documents_ptr + b * padded + t)
        causal = causal & (documents[:, None] == documents[None, :])
    if WHOLE:
        CB = tl.dot(B, tl.trans(C), input_precision=PRECISION)
    else:
        CB = over_states(B_rows, B_n, rows, C_rows, C_n, rows, Q, Q, N, BLOCK_K, PRECISION)
    groups = heads // heads_per_group
    diagonal = q[:, None] == q[None, :]
    tl.store(own_CB_ptr + (b * groups + g) * padded + t, tl.sum(tl.where(diagonal, CB, 0.0), axis=1))
    # no exponent stands in what a token gives itself: left in, it would be added and subtracted again, and drown what decayed
    CB = tl.where(causal & (q[:, None] != q[None, :]), CB, 0.0)
    out_at = (((block * batch + b) * length + start) * groups + g) * N
    dB_ptr += out_at
    dC_ptr += out_at
    dCB = tl.zeros([Q, Q], tl.float32)
    x_ptr += b * x_b + start * x_l
    dy_ptr += b * dy_b + start * dy_l
    if HAS_LOW:
        low_ptr += b * dy_b + start * dy_l
    sums_ptr += b * heads * padded + start
    steps_ptr += b * heads * padded + start
    own_ptr += b * heads * PARTS * padded + start
    of_row_ptr += b * heads * PARTS * padded + start
    of_column_ptr += b * heads * PARTS * padded + start
    later = zero
    for j in range(first, last):
        i = j ^ zero
        later &= i
        head = tl.cast(i // PARTS, tl.int64)
        p = (i % PARTS) * BLOCK_P + tl.arange(0, BLOCK_P)
        in_P = rows & (p < P)[None, :]
        sums = tl.load(sums_ptr + head * padded + q)
        steps = tl.load(steps_ptr + head * padded + q)
        x = tl.load(x_ptr + head * x_h + (q[:, None] * x_l + p[None, :] * x_p), mask=in_P, other=0.0)
        dy = tl.load(dy_ptr + head * dy_h + (q[:, None] * dy_l + p[None, :] * dy_p), mask=in_P, other=0.0)
        row = tl.cast(i, tl.int64) * padded + q
        own = tl.sum(x.to(tl.float32) * dy.to(tl.float32), axis=1)
        d = tl.dot(x, tl.trans(dy), input_precision=PRECISION)
        if HAS_LOW:
            low_at = low_ptr + head * dy_h + (q[:, None] * dy_l + p[None, :] * dy_p)
            low = tl.load(low_at, mask=in_P, other=0.0)
            own += tl.sum(x.to(tl.float32) * low.to(tl.float32), axis=1)
            d = tl.dot(x, tl.trans(low), acc=d, input_precision=PRECISION)
        tl.store(own_ptr + row, own)
        # the minimum keeps the decay finite where a token is not seen
        d *= tl.exp2(tl.minimum(sums[None, :] - sums[:, None], 0.0))
        through = d * CB
        tl.store(of_column_ptr + row, tl.sum(through, axis=1))
        dCB += d * steps[:, None]
        tl.store(of_row_ptr + row, tl.sum(through * steps[:, None], axis=0))
    if WHOLE:
        at, in_N = tile_of_sums(c, length, groups, later, Q, N, BLOCK_N)
        narrow = tl.where(causal, dCB, 0.0).to(B.dtype)
        tl.store(dB_ptr + at, tl.dot(narrow, C, input_precision=PRECISION), mask=in_N)
        tl.store(dC_ptr + at, tl.dot(tl.trans(narrow), B, input_precision=PRECISION), mask=in_N)
    else:
        narrow = tl.where(causal, dCB, 0.0).to(B_ptr.dtype.element_ty)
        for first_n in range(0, N, BLOCK_K):
            k = first_n + tl.arange(0, BLOCK_K)[None, :]
            at = q[:, None] * (groups * N) + k
            in_K = rows & (k < N)
            C = tl.load(C_rows + k * C_n, mask=in_K, other=0.0)
            tl.store(dB_ptr + at, tl.dot(narrow, C, input_precision=PRECISION), mask=in_K)
            B = tl.load(B_rows + k * B_n, mask=in_K, other=0.0)
            tl.store(dC_ptr + at, tl.dot(tl.trans(narrow), B, input_precision=PRECISION), mask=in_K)


@triton.jit(do_not_specialize=["share", "row_share", "length", "padded", "heads_per_group", "together", "zero"])
def ssd_backward_kernel(
    x_ptr, dy_ptr, low_ptr, B_ptr, C_ptr, D_ptr, steps_ptr, sums_ptr, documents_ptr, states_ptr, dstates_ptr,
    dx_ptr, dB_ptr, dC_ptr, of_row_ptr, of_column_ptr, into_state_ptr, carried_ptr, own_ptr, own_CB_ptr, dD_ptr,
    x_b, x_l: tl.constexpr, x_h, x_p: tl.constexpr, dy_b, dy_l: tl.constexpr, dy_h, dy_p: tl.constexpr,
    B_b, B_l, B_g, B_n, C_b, C_l, C_g, C_n, D_h, D_p,
    share, row_share, length, padded, heads: tl.constexpr, heads_per_group, together, zero,
    Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_LOW: tl.constexpr, WIDE_D: tl.constexpr, HAS_SEQ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: (groups * blocks of heads * the three parts, chunks, batch); together: heads of a block.

    low: what a dy of 16 bits lacks, laid out as dy; only where dy was computed here (HAS_LOW). BLOCK_K: as for ssd_output_kernel.
    states: before each chunk; dstates: gradient of those after it. dx: (batch, length, heads, P) contiguous. dB, dC: (2, blocks, batch,
    length, groups, N): the share through the states, and the one from inside, share apart. of_row: (2, batch, heads * parts, padded),
    likewise, row_share apart; of_column, into_state: (batch, heads * parts, padded). carried: (batch, chunks, heads * parts). own: x .
    dy of every token, as of_column; own_CB: B . C of every token, (batch, groups, padded). dD, with WIDE_D (D has a headdim): (batch,
    chunks, heads, P). All but dx are float32. zero: 0; an exclusive or with it keeps the compiler from turning every address into a
    variable of the loop, of which there would be more than registers.
    """
    # neighbours: what one part has read is in the second-level cache for the others
    part = tl.program_id(0) % 3
    place = tl.program_id(0) // 3
    c = tl.program_id(1)
    chunks = tl.num_programs(1)
    b = tl.program_id(2).to(tl.int64)
    batch = tl.num_programs(2)
    if part == 0:
        ssd_columns(
            x_ptr, dy_ptr, low_ptr, B_ptr, C_ptr, D_ptr, steps_ptr, sums_ptr, documents_ptr, dstates_ptr,
            dx_ptr, dB_ptr, into_state_ptr, dD_ptr,
            x_b, x_l, x_h, x_p, dy_b, dy_l, dy_h, dy_p, B_b, B_l, B_g, B_n, C_b, C_l, C_g, C_n, D_h, D_p,
            place, c, b, batch, chunks, length, padded, heads, heads_per_group, together, zero,
            Q, P, N, BLOCK_P, BLOCK_N, BLOCK_K, HAS_LOW, WIDE_D, HAS_SEQ, PRECISION,
        )  # fmt: skip
    elif part == 1:
        ssd_rows(
            dy_ptr, low_ptr, C_ptr, sums_ptr, documents_ptr, states_ptr, dstates_ptr, dC_ptr, of_row_ptr, carried_ptr,
            dy_b, dy_l, dy_h, dy_p, C_b, C_l, C_g, C_n,
            place, c, b, batch, chunks, length, padded, heads, heads_per_group, together, zero,
            Q, P, N, BLOCK_P, BLOCK_N, BLOCK_K, HAS_LOW, HAS_SEQ, PRECISION,
        )  # fmt: skip
    else:
        ssd_inside(
            x_ptr, dy_ptr, low_ptr, B_ptr, C_ptr, steps_ptr, sums_ptr, documents_ptr,
            dB_ptr + share, dC_ptr + share, of_row_ptr + row_share, of_column_ptr, own_ptr, own_CB_ptr,
            x_b, x_l, x_h, x_p, dy_b, dy_l, dy_h, dy_p, B_b, B_l, B_g, B_n, C_b, C_l, C_g, C_n,
            place, c, b, batch, length, padded, heads, heads_per_group, together, zero,
            Q, P, N, BLOCK_P, BLOCK_N, BLOCK_K, HAS_LOW, HAS_SEQ, PRECISION,
        )  # fmt: skip

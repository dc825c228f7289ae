"""What Mamba-3's scans do before their products, for all chunks side by side: how far each chunk's tokens have turned, then keys and
queries with bias and rotation, and the numbers that a token has once. The walks of forward.py and backward_walks.py only load them."""

from __future__ import annotations

import triton
import triton.language as tl

from anymamba.backends.triton.mamba3.tokens import (
    TURN,
    as_fraction,
    as_integer,
    biased,
    chunk_of,
    column_of,
    cosine_and_sine,
    running_sums,
    sequence_of,
    steps_of,
    tanh,
    turned,
    turned_by,
)


@triton.jit(do_not_specialize=["length", "heads"])
def mamba3_turns_kernel(
    angles_ptr, dt_ptr, borders_ptr, angle_first_ptr, turns_ptr, sequences_ptr, angle_last_ptr,
    angles_b, angles_l, angles_h, angles_n, dt_b, dt_h, dt_l, length, heads,
    Q: tl.constexpr, G: tl.constexpr, ANGLES: tl.constexpr, BLOCK_A: tl.constexpr, PACKED: tl.constexpr, HAS_FIRST: tl.constexpr,
    HAS_LAST: tl.constexpr,
):  # fmt: skip
    """Grid: (heads, sequences); G chunks at a time. turns: (chunks of all, heads, ANGLES), integers, what the token before each chunk had
    turned by. sequences: the number of each chunk's, where several share a row. angle_first, angle_last: (sequences, heads, ANGLES)."""
    h = tl.program_id(0).to(tl.int64)
    s = tl.program_id(1)
    b, begin, end, chunk = sequence_of(s, borders_ptr, length, Q, PACKED)
    angles_ptr += b * angles_b + h * angles_h
    dt_ptr += b * dt_b + h * dt_h
    j = tl.arange(0, BLOCK_A)
    g = tl.arange(0, G)
    u = tl.arange(0, G * Q)
    of_head = (s.to(tl.int64) * heads + h) * ANGLES + j
    turns = tl.zeros([BLOCK_A], tl.int32)
    if HAS_FIRST:
        angle = tl.load(angle_first_ptr + of_head, mask=j < ANGLES, other=0.0).to(tl.float32)
        turns += as_integer(angle * (1.0 / TURN))
    chunks = tl.cdiv(end - begin, Q)
    for several in range(0, tl.cdiv(chunks, G)):
        c = tl.cast(several, tl.int32) * G
        first = (begin + c * Q).to(tl.int64)
        live = u < end - begin - c * Q
        at = u[:, None] * angles_l + j[None, :] * angles_n
        logits = tl.load(angles_ptr + first * angles_l + at, mask=live[:, None] & (j < ANGLES)[None, :], other=0.0)
        dt = tl.load(dt_ptr + first * dt_l + u * dt_l, mask=live, other=0.0).to(tl.float32)
        amount = as_integer(tanh(logits.to(tl.float32)) * (dt * 0.5)[:, None])
        of_chunk = tl.sum(tl.reshape(amount, [G, Q, BLOCK_A]), axis=1)
        before = turns[None, :] + tl.cumsum(of_chunk, axis=0) - of_chunk
        inside = c + g < chunks
        row = tl.cast(chunk + c + g, tl.int64) * heads + h
        tl.store(turns_ptr + row[:, None] * ANGLES + j[None, :], before, mask=inside[:, None] & (j < ANGLES)[None, :])
        if PACKED:
            tl.store(sequences_ptr + chunk + c + g, s + g * 0, mask=c + g < tl.where(h == 0, chunks, 0))
        turns += tl.sum(of_chunk, axis=0)
    if HAS_LAST:
        if end > begin:
            tl.store(angle_last_ptr + of_head, as_fraction(turns) * TURN, mask=j < ANGLES)
        elif HAS_FIRST:
            tl.store(angle_last_ptr + of_head, angle, mask=j < ANGLES)


@triton.jit(do_not_specialize=["length", "heads", "heads_per_group"])
def mamba3_rotate_kernel(
    q_ptr, k_ptr, adt_ptr, dt_ptr, trap_ptr, q_bias_ptr, k_bias_ptr, angles_ptr, borders_ptr, sequences_ptr, turns_ptr,
    q_out_ptr, k_out_ptr, sums_ptr, scale_ptr, gamma_ptr, angles_out_ptr, k_last_ptr,
    q_b, q_l, q_r, q_g, q_n, k_b, k_l, k_r, k_g, k_n, adt_b, adt_h, adt_l, dt_b, dt_h, dt_l, trap_b, trap_h, trap_l,
    angles_b, angles_l, angles_h, angles_n, length, heads, heads_per_group,
    Q: tl.constexpr, RANK: tl.constexpr, N: tl.constexpr, ANGLES: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_N: tl.constexpr,
    NEIGHBOURS: tl.constexpr, PACKED: tl.constexpr, HAS_LAST: tl.constexpr, HAS_ANGLES: tl.constexpr,
    FLOAT64: tl.constexpr,
):  # fmt: skip
    """Grid: (heads, chunks of all). q_out, k_out: (batch, length, rank, heads, N), the numbers that turn together beside each other. sums:
    (batch, heads, length), of ADT from the chunk's first token on, times log2(e); scale: with what weight a token enters the states of
    later ones; gamma: its own. angles_out: (batch, length,
    heads, ANGLES), integers, for the backward pass (HAS_ANGLES). k_last: (sequences, rank, heads, N), in memory's order."""
    A: tl.constexpr = BLOCK_A
    h = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    s, b, start, left = chunk_of(chunk, borders_ptr, sequences_ptr, length, Q, PACKED)
    if s >= 0:
        first = start.to(tl.int64)
        token = tl.arange(0, Q)
        j = tl.arange(0, A)
        live = token < left
        group = h // heads_per_group
        dt, trap, scale = steps_of(dt_ptr + b * dt_b + h * dt_h, dt_l, trap_ptr + b * trap_b + h * trap_h, trap_l, first, token, left, live)
        sums = running_sums(adt_ptr + b * adt_b + h * adt_h, adt_l, first, token, live, FLOAT64)
        of_token = (b * heads + h) * length + first + token
        tl.store(sums_ptr + of_token, sums, mask=live)
        tl.store(scale_ptr + of_token, scale, mask=live)
        tl.store(gamma_ptr + of_token, trap * dt, mask=live)
        before = tl.load(turns_ptr + (tl.cast(chunk, tl.int64) * heads + h) * ANGLES + j, mask=j < ANGLES, other=0)
        angles_ptr += b * angles_b + h * angles_h
        angles = turned_by(angles_ptr, angles_l, angles_n, first, token, live, dt, before, ANGLES, A)
        if HAS_ANGLES:
            at = ((b * length + first) * heads + h) * ANGLES + ((token * heads)[:, None] * ANGLES + j[None, :])
            tl.store(angles_out_ptr + at, angles, mask=live[:, None] & (j < ANGLES)[None, :])
        cosine, sine = cosine_and_sine(as_fraction(angles))
        q_ptr += b * q_b + group * q_g + first * q_l
        k_ptr += b * k_b + group * k_g + first * k_l
        row_start = ((b * length + first) * RANK * heads + h) * N
        last_at = (tl.cast(s, tl.int64) * RANK * heads + h) * N
        for part in tl.static_range(0, BLOCK_N, 2 * A):
            n = part + tl.arange(0, 2 * A)
            column = column_of(n, N, NEIGHBOURS)
            inside = live[:, None] & (n < N)[None, :]
            for r in tl.static_range(RANK):
                bias_at = (h * RANK + r) * N + column
                q = biased(q_ptr + r * q_r, q_l, q_n, q_bias_ptr + bias_at, token, column, n < N, inside)
                k = biased(k_ptr + r * k_r, k_l, k_n, k_bias_ptr + bias_at, token, column, n < N, inside)
                if part == 0:
                    q = turned(q, cosine, sine, Q, A)
                    k = turned(k, cosine, sine, Q, A)
                row_at = row_start + (((token * RANK + r) * heads)[:, None] * N + n[None, :])
                tl.store(q_out_ptr + row_at, q.to(q_out_ptr.dtype.element_ty), mask=inside)
                tl.store(k_out_ptr + row_at, k.to(k_out_ptr.dtype.element_ty), mask=inside)
                if HAS_LAST:
                    to_last = k_last_ptr + last_at + r * heads * N + column[None, :] + token[:, None] * 0
                    tl.store(to_last, k, mask=inside & (token == left - 1)[:, None])

"""What Mamba-3's kernels do with a chunk of tokens before its products: running sums, turning angles, rotated keys and queries.

A token has ``rank`` keys, queries and values (SISO: one). A chunk of Q tokens is a tile of Q * RANKS rows, RANKS being rank rounded up to a
power of 2: row i is rank i % RANKS of token i // RANKS, and rows of ranks that do not exist are zero. What a token has once (step, decay,
angle) counts in the running sums at its first row alone.

Angles are kept as fractions of a turn in 32-bit integers, 2^32 being a whole turn: their sum wraps around by itself, and what a long
sequence has turned by loses nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl

from anymamba.backends.triton.elementary import LOG2E, sigmoid

TURN = tl.constexpr(6.283185307179586)


@triton.jit
def column_of(n, N: tl.constexpr, NEIGHBOURS: tl.constexpr):
    """Where column n of a tile stands in memory. In tiles, the two numbers that turn together are neighbours; in memory they are so in
    SISO, and half of d_state apart in MIMO."""
    if NEIGHBOURS:
        return n
    else:
        return (n % 2) * (N // 2) + n // 2


@triton.jit
def tanh(x):
    """Of float32, the last digits of small x included: there 1 - exp(-2 x) would have lost them."""
    size = tl.abs(x)
    below = tl.exp2(size * (-2.0 * LOG2E))
    large = (1.0 - below) / (1.0 + below)
    s = x * x
    small = size * (1.0 + s * (-0.3333333333 + s * (0.1333333333 + s * (-0.0539682540 + s * 0.0218694885))))
    value = tl.where(size < 0.25, small, large)
    return tl.where(x < 0.0, -value, value)


@triton.jit
def as_integer(turns):
    """A float32 number of turns as the 32-bit integer of its fraction."""
    fraction = turns - tl.floor(turns + 0.5)
    return (tl.minimum(fraction, 0.49999997) * 4294967296.0).to(tl.int32)


@triton.jit
def as_fraction(turns):
    """The float32 fraction, from 0 to 1, of an integer's turn."""
    return ((turns >> 4) & 0x0FFFFFFF).to(tl.float32) * 3.725290298461914e-09


@triton.jit
def cosine_and_sine(fraction):
    """Of a fraction of a turn: the quarter chosen by the whole part, Taylor series over an eighth of a turn either way (error below 2e-9).
    Without branches: the library's functions keep a table in memory for arguments that do not occur here."""
    quarters = fraction * 4.0
    whole = tl.floor(quarters + 0.5)
    x = (quarters - whole) * 1.5707963267948966
    s = x * x
    sine = x * (1.0 + s * (-0.16666666666 + s * (0.0083333333333 + s * (-0.00019841269841 + s * 2.7557319e-06))))
    cosine = 1.0 + s * (-0.5 + s * (0.041666666667 + s * (-0.0013888888889 + s * (2.4801587e-05 - s * 2.7557319e-07))))
    quarter = whole.to(tl.int32) & 3
    odd = (quarter & 1) == 1
    first = tl.where(odd, sine, cosine)
    second = tl.where(odd, cosine, sine)
    first = tl.where((quarter == 1) | (quarter == 2), -first, first)
    second = tl.where(quarter >= 2, -second, second)
    return first, second


@triton.jit
def steps_of(dt_ptr, dt_l, trap_ptr, trap_l, first, token, left, live):
    """Of rows of the tokens from the chunk's first on, of which left are there: the step DT, the share of a token's own key, trap, and with
    what weight it enters the state of later tokens, trap DT + (1 - trap) DT of the token after it. Zero where not live."""
    dt_ptr += first * dt_l
    trap_ptr += first * trap_l
    dt = tl.load(dt_ptr + token * dt_l, mask=live, other=0.0).to(tl.float32)
    trap = sigmoid(tl.load(trap_ptr + token * trap_l, mask=live, other=0.0).to(tl.float32))
    follows = live & (token + 1 < left)
    next_dt = tl.load(dt_ptr + (token + 1) * dt_l, mask=follows, other=0.0).to(tl.float32)
    next_trap = tl.load(trap_ptr + (token + 1) * trap_l, mask=follows, other=0.0).to(tl.float32)
    scale = trap * dt + sigmoid(-next_trap) * next_dt
    return dt, trap, tl.where(live, scale, 0.0)


@triton.jit
def running_sums(adt_ptr, adt_l, first, token, once, FLOAT64: tl.constexpr):
    """Of ADT from the chunk's first row on, times log2(e), so that exp2 of a difference is a decay. once: rows that count."""
    decay = tl.load(adt_ptr + first * adt_l + token * adt_l, mask=once, other=0.0).to(tl.float32) * LOG2E
    return tl.cumsum(decay.to(tl.float64 if FLOAT64 else tl.float32), axis=0).to(tl.float32)


@triton.jit
def turned_by(
    angles_ptr, angles_l, angles_n, first, token, once, dt, before, ANGLES: tl.constexpr, PAIRS: tl.constexpr
):  # fmt: skip
    """What every row's pairs have turned by, integers. before: (PAIRS,), what the token before the chunk had turned by. once: rows that
    count, the first of each token."""
    j = tl.arange(0, PAIRS)
    at = token[:, None] * angles_l + j[None, :] * angles_n
    bent = tanh(tl.load(angles_ptr + first * angles_l + at, mask=once[:, None] & (j < ANGLES)[None, :], other=0.0).to(tl.float32))
    return before[None, :] + tl.cumsum(as_integer(bent * (dt * 0.5)[:, None]), axis=0)


@triton.jit
def biased(x_ptr, x_l, x_n, bias_ptr, token, column, present, inside):
    """x + bias: (Q, columns) float32. x_ptr: of a group's first token of the chunk. bias_ptr: of each column."""
    x = tl.load(x_ptr + (token[:, None] * x_l + column[None, :] * x_n), mask=inside, other=0.0).to(tl.float32)
    return x + tl.load(bias_ptr, mask=present, other=0.0).to(tl.float32)[None, :]


@triton.jit
def turned(x, cosine, sine, Q: tl.constexpr, PAIRS: tl.constexpr):
    """(Q, 2 PAIRS), neighbours beside each other, by the angles of cosine and sine, (Q, PAIRS)."""
    a, b = tl.split(tl.reshape(x, [Q, PAIRS, 2]))
    return tl.reshape(tl.join(a * cosine - b * sine, a * sine + b * cosine), [Q, 2 * PAIRS])


@triton.jit
def sequence_of(s, borders_ptr, length, Q: tl.constexpr, PACKED: tl.constexpr):
    """Of sequence s: the row of the batch that holds it (int64), its first token, the one after its last, and its first chunk among those
    of all sequences. Packed, chunks are numbered with gaps, so that no sequence needs to know how many the others have."""
    if PACKED:
        begin = tl.load(borders_ptr + s).to(tl.int32)
        end = tl.load(borders_ptr + s + 1).to(tl.int32)
        return tl.cast(s, tl.int64) * 0, begin, end, begin // Q + s
    else:
        begin = tl.cast(s, tl.int32) * 0
        return tl.cast(s, tl.int64), begin, begin + length, s * tl.cdiv(length, Q)


@triton.jit
def chunk_of(chunk, borders_ptr, sequences_ptr, length, Q: tl.constexpr, PACKED: tl.constexpr):
    """Of a chunk: its sequence (below 0: there is no such chunk), its row of the batch (int64), its first token, and how many there are
    from it to the end of its sequence."""
    if PACKED:
        s = tl.load(sequences_ptr + chunk)
        begin = tl.load(borders_ptr + tl.maximum(s, 0)).to(tl.int32)
        end = tl.load(borders_ptr + tl.maximum(s, 0) + 1).to(tl.int32)
        first = begin + (chunk - begin // Q - s) * Q
        return s, tl.cast(chunk, tl.int64) * 0, first, end - first
    else:
        chunks = tl.cdiv(length, Q)
        first = (chunk % chunks) * Q
        return chunk // chunks, tl.cast(chunk // chunks, tl.int64), first, length - first

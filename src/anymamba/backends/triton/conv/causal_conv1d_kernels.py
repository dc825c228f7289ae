"""Causal depthwise convolution of a few taps over time, with silu, forward and backward.

A program owns a block of channels over a stretch of time and walks it with the last taps in registers: every input is read from
memory once. Channels are neighbours in memory, so that a lane reads several with one instruction.
"""

from __future__ import annotations

import triton
import triton.language as tl

from anymamba.backends.triton.elementary import sigmoid


@triton.jit
def load_taps(weight_ptr, d, ok, weight_d, weight_w, WIDTH: tl.constexpr):
    taps = ()
    for j in tl.static_range(WIDTH):
        taps += (tl.load(weight_ptr + d.to(tl.int64) * weight_d + j * weight_w, mask=ok, other=0.0).to(tl.float32),)
    return taps


@triton.jit
def load_input(
    x_ptr, initial_ptr, x_l, initial_d, initial_w, d, t, length, channels, WIDTH: tl.constexpr, HAS_INITIAL: tl.constexpr
):
    """Inputs of token t, (BLOCK_D,) in float32: before token 0 the initial state or zeros, zeros after the last."""
    row = tl.load(x_ptr + t.to(tl.int64) * x_l + d, mask=d < tl.where((t >= 0) & (t < length), channels, 0), other=0.0)
    row = row.to(tl.float32)
    if HAS_INITIAL:
        earlier = initial_ptr + d.to(tl.int64) * initial_d + (t + WIDTH - 1) * initial_w
        row += tl.load(earlier, mask=d < tl.where((t < 0) & (t >= 1 - WIDTH), channels, 0), other=0.0).to(tl.float32)
    return row


@triton.jit
def load_document(seq_ptr, seq_l, t, length):
    """Number of the document of token t; what lies before token 0 belongs to token 0's. -1 after the last token."""
    document = tl.load(seq_ptr + tl.maximum(tl.minimum(t, length - 1), 0) * seq_l)
    return tl.where(t < length, document, -1)


@triton.jit
def convolve(rows, documents, taps, bias, first: tl.constexpr, WIDTH: tl.constexpr, HAS_SEQ: tl.constexpr):
    """bias + sum over j of taps[j] * rows[first + j], without the rows of other documents than the last one's."""
    total = bias
    for j in tl.static_range(WIDTH):
        row = rows[first + j]
        if HAS_SEQ:
            row = tl.where(documents[first + j] == documents[first + WIDTH - 1], row, 0.0)
        total += taps[j] * row
    return total


@triton.jit
def causal_conv1d_forward_kernel(
    x_ptr, weight_ptr, bias_ptr, initial_ptr, seq_ptr, out_ptr,
    x_b, x_l, weight_d, weight_w, initial_b, initial_d, initial_w, seq_b, seq_l, out_b, out_l, length, channels, stretch,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr, SILU: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_SEQ: tl.constexpr,
):  # fmt: skip
    """Grid: (blocks of channels, stretches, batch). x, out: (batch, length, channels), channel stride 1; weight: (channels, WIDTH);
    initial: (batch, channels, WIDTH - 1); seq: (batch, length)."""
    b = tl.program_id(2).to(tl.int64)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    ok = d < channels
    start = tl.program_id(1) * stretch
    end = tl.minimum(start + stretch, length)
    x_ptr += b * x_b
    out_ptr += b * out_b
    initial_ptr += b * initial_b
    seq_ptr += b * seq_b
    taps = load_taps(weight_ptr, d, ok, weight_d, weight_w, WIDTH)
    bias = tl.zeros([BLOCK_D], tl.float32)
    if HAS_BIAS:
        bias += tl.load(bias_ptr + d, mask=ok, other=0.0).to(tl.float32)
    carried = ()
    carried_documents = ()
    for j in tl.static_range(WIDTH - 1):
        t = start - (WIDTH - 1) + j
        carried += (load_input(x_ptr, initial_ptr, x_l, initial_d, initial_w, d, t, length, channels, WIDTH, HAS_INITIAL),)
        if HAS_SEQ:
            carried_documents += (load_document(seq_ptr, seq_l, t, length),)
    # pointers walk along: an address costs one addition a step
    first = start.to(tl.int64)
    x_ptr += first * x_l + d
    out_ptr += first * out_l + d
    for t0 in range(start, end, TILE):
        rows = carried
        documents = carried_documents
        for i in tl.static_range(TILE):
            live = d < tl.where(t0 + i < end, channels, 0)
            rows += (tl.load(x_ptr + i * x_l, mask=live, other=0.0).to(tl.float32),)
            if HAS_SEQ:
                documents += (load_document(seq_ptr, seq_l, t0 + i, length),)
        for i in tl.static_range(TILE):
            out = convolve(rows, documents, taps, bias, i, WIDTH, HAS_SEQ)
            if SILU:
                out *= sigmoid(out, x_ptr.dtype.element_ty)
            if HAS_SEQ:
                out = tl.where(documents[i + WIDTH - 1] >= 0, out, 0.0)
            live = d < tl.where(t0 + i < end, channels, 0)
            tl.store(out_ptr + i * out_l, out.to(out_ptr.dtype.element_ty), mask=live)
        x_ptr += TILE * x_l
        out_ptr += TILE * out_l
        carried = last_of(rows, TILE, WIDTH - 1)
        if HAS_SEQ:
            carried_documents = last_of(documents, TILE, WIDTH - 1)


@triton.jit
def last_of(rows, first: tl.constexpr, COUNT: tl.constexpr):
    """The COUNT entries from first on."""
    kept = ()
    for j in tl.static_range(COUNT):
        kept += (rows[first + j],)
    return kept


@triton.jit
def before_silu(
    dout, rows, documents, taps, bias, dtype: tl.constexpr, i: tl.constexpr, WIDTH: tl.constexpr, SILU: tl.constexpr, HAS_SEQ: tl.constexpr
):  # fmt: skip
    """The gradient that reaches the convolution's output of the i-th token, whose own row is rows[i + WIDTH - 1]."""
    if HAS_SEQ:
        dout = tl.where(documents[i + WIDTH - 1] >= 0, dout, 0.0)
    if SILU:
        before = convolve(rows, documents, taps, bias, i, WIDTH, HAS_SEQ)
        s = sigmoid(before, dtype)
        dout *= s * (1.0 + before * (1.0 - s))
    return dout


@triton.jit
def store_input_gradient(
    dx_ptr, dinitial_ptr, dx_l, d, ps, documents, taps, t, start, end, channels,
    i: tl.constexpr, WIDTH: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_SEQ: tl.constexpr,
):  # fmt: skip
    """dx of token t, which ps[i], ..., ps[i + WIDTH - 1] reach; nothing outside of start to end but for the initial state. dx_ptr: of
    the token of i = 0."""
    dx = tl.zeros_like(ps[i])
    for j in tl.static_range(WIDTH):
        met = ps[i + j]
        if HAS_SEQ:
            met = tl.where(documents[i] == documents[i + j], met, 0.0)
        dx += taps[WIDTH - 1 - j] * met
    live = d < tl.where((t >= start) & (t < end), channels, 0)
    tl.store(dx_ptr + i * dx_l, dx.to(dx_ptr.dtype.element_ty), mask=live)
    if HAS_INITIAL:
        live = d < tl.where((t < 0) & (start == 0), channels, 0)
        at = dinitial_ptr + (t + WIDTH - 1).to(tl.int64) * channels + d
        tl.store(at, dx.to(dinitial_ptr.dtype.element_ty), mask=live)


@triton.jit
def load_tile(x_ptr, dout_ptr, x_l, dout_l, d, t, length, channels, TILE: tl.constexpr):
    """Rows of x and dout from token t on, as they lie in memory, zeros after the last. x_ptr, dout_ptr: of token t."""
    rows = ()
    douts = ()
    for i in tl.static_range(TILE):
        live = d < tl.where(t + i < length, channels, 0)
        rows += (tl.load(x_ptr + i * x_l, mask=live, other=0.0),)
        douts += (tl.load(dout_ptr + i * dout_l, mask=live, other=0.0),)
    return rows, douts


@triton.jit
def causal_conv1d_backward_kernel(
    x_ptr, weight_ptr, bias_ptr, initial_ptr, seq_ptr, dout_ptr, dx_ptr, dinitial_ptr, partial_ptr,
    x_b, x_l, weight_d, weight_w, initial_b, initial_d, initial_w, seq_b, seq_l, dout_b, dout_l, dx_b, dx_l,
    length, channels, stretch,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr, AHEAD: tl.constexpr, SILU: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_SEQ: tl.constexpr,
):  # fmt: skip
    """Grid as forward; stretch: a multiple of TILE. With p the gradient before the silu, dx[t] = sum over j of taps[WIDTH - 1 - j] *
    p[t + j]: dx is stored WIDTH - 1 tokens behind, and after its stretch the walk goes on for that many tokens. AHEAD: a tile is on its
    way from memory while the one before is computed.

    partial: (batch * stretches, WIDTH + HAS_BIAS, channels), float32 sums for the gradients of weight and bias.
    dinitial: (batch, WIDTH - 1, channels).
    """
    b = tl.program_id(2).to(tl.int64)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    ok = d < channels
    start = tl.program_id(1) * stretch
    end = tl.minimum(start + stretch, length)
    x_ptr += b * x_b
    dout_ptr += b * dout_b
    dx_ptr += b * dx_b
    initial_ptr += b * initial_b
    if HAS_INITIAL:
        dinitial_ptr += b * (WIDTH - 1) * channels
    seq_ptr += b * seq_b
    taps = load_taps(weight_ptr, d, ok, weight_d, weight_w, WIDTH)
    bias = tl.zeros([BLOCK_D], tl.float32)
    if HAS_BIAS:
        bias += tl.load(bias_ptr + d, mask=ok, other=0.0).to(tl.float32)
    dbias = tl.zeros([BLOCK_D], tl.float32)
    dtaps = ()
    carried = ()
    carried_documents = ()
    carried_p = ()
    for _ in tl.static_range(WIDTH):
        dtaps += (tl.zeros([BLOCK_D], tl.float32),)
    for j in tl.static_range(WIDTH - 1):
        t = start - (WIDTH - 1) + j
        carried += (load_input(x_ptr, initial_ptr, x_l, initial_d, initial_w, d, t, length, channels, WIDTH, HAS_INITIAL),)
        carried_p += (tl.zeros([BLOCK_D], tl.float32),)
        if HAS_SEQ:
            carried_documents += (load_document(seq_ptr, seq_l, t, length),)
    first = start.to(tl.int64)
    x_ptr += first * x_l + d
    dout_ptr += first * dout_l + d
    dx_ptr += (first - (WIDTH - 1)) * dx_l + d
    if AHEAD:
        loaded, douts = load_tile(x_ptr, dout_ptr, x_l, dout_l, d, start, length, channels, TILE)
    for t0 in range(start, end, TILE):
        if not AHEAD:
            loaded, douts = load_tile(x_ptr, dout_ptr, x_l, dout_l, d, t0, length, channels, TILE)
        rows = carried
        documents = carried_documents
        ps = carried_p
        arrived = douts
        for i in tl.static_range(TILE):
            rows += (loaded[i].to(tl.float32),)
            if HAS_SEQ:
                documents += (load_document(seq_ptr, seq_l, t0 + i, length),)
        x_ptr += TILE * x_l
        dout_ptr += TILE * dout_l
        if AHEAD:
            loaded, douts = load_tile(x_ptr, dout_ptr, x_l, dout_l, d, t0 + TILE, length, channels, TILE)
        for i in tl.static_range(TILE):
            p = before_silu(arrived[i].to(tl.float32), rows, documents, taps, bias, x_ptr.dtype.element_ty, i, WIDTH, SILU, HAS_SEQ)
            ps += (p,)
            dbias += p
            summed = ()
            for j in tl.static_range(WIDTH):
                row = rows[i + j]
                if HAS_SEQ:
                    row = tl.where(documents[i + j] == documents[i + WIDTH - 1], row, 0.0)
                summed += (dtaps[j] + p * row,)
            dtaps = summed
            t = t0 + i - (WIDTH - 1)
            store_input_gradient(
                dx_ptr, dinitial_ptr, dx_l, d, ps, documents, taps, t, start, end, channels, i, WIDTH, HAS_INITIAL, HAS_SEQ
            )
        dx_ptr += TILE * dx_l
        carried = last_of(rows, TILE, WIDTH - 1)
        carried_p = last_of(ps, TILE, WIDTH - 1)
        if HAS_SEQ:
            carried_documents = last_of(documents, TILE, WIDTH - 1)
    # the stretch's last tokens also reach outputs of the next, whose program adds these to its sums
    t0 = start + tl.cdiv(end - start, TILE) * TILE
    for i in tl.static_range(WIDTH - 1):
        if AHEAD and i < TILE:
            carried += (loaded[i].to(tl.float32),)
            dout = douts[i].to(tl.float32)
        else:
            live = d < tl.where(t0 + i < length, channels, 0)
            carried += (tl.load(x_ptr + i * x_l, mask=live, other=0.0).to(tl.float32),)
            dout = tl.load(dout_ptr + i * dout_l, mask=live, other=0.0).to(tl.float32)
        if HAS_SEQ:
            carried_documents += (load_document(seq_ptr, seq_l, t0 + i, length),)
        p = before_silu(dout, carried, carried_documents, taps, bias, x_ptr.dtype.element_ty, i, WIDTH, SILU, HAS_SEQ)
        carried_p += (p,)
        t = t0 + i - (WIDTH - 1)
        store_input_gradient(
            dx_ptr, dinitial_ptr, dx_l, d, carried_p, carried_documents, taps, t, start, end, channels, i, WIDTH, HAS_INITIAL, HAS_SEQ
        )
    row = b * tl.num_programs(1) + tl.program_id(1)
    partial_ptr += row * (WIDTH + HAS_BIAS) * channels + d
    for j in tl.static_range(WIDTH):
        tl.store(partial_ptr + j * channels, dtaps[j], mask=ok)
    if HAS_BIAS:
        tl.store(partial_ptr + WIDTH * channels, dbias, mask=ok)

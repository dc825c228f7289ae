"""Causal depthwise convolution of a few taps where time is contiguous in memory, forward and backward.

A lane reads GROUP neighbouring steps of one channel with one instruction and keeps them apart, each in a register. What its taps
reach beyond them belongs to the neighbouring lanes: it is read again, which the first-level cache answers.

Strides of rows and batches, and the length, come in units of UNIT steps: this is how the compiler learns what is aligned.
"""

from __future__ import annotations

import triton
import triton.language as tl

from anymamba.backends.triton.conv.causal_conv1d_kernels import convolve, load_taps
from anymamba.backends.triton.elementary import sigmoid


@triton.jit
def columns(tile, BLOCK: tl.constexpr, COUNT: tl.constexpr):
    """The columns of a tile (BLOCK, COUNT), COUNT a power of 2, as a tuple. A lane has whole rows, so that nothing is moved."""
    if COUNT == 1:
        return (tl.reshape(tile, [BLOCK]),)
    else:
        low, high = tl.split(tl.permute(tl.reshape(tile, [BLOCK, 2, COUNT // 2]), [0, 2, 1]))
        return columns(low, BLOCK, COUNT // 2) + columns(high, BLOCK, COUNT // 2)


@triton.jit
def tile_of(values, first: tl.constexpr, BLOCK: tl.constexpr, COUNT: tl.constexpr):
    """The tile (BLOCK, COUNT) of the COUNT columns from first on."""
    if COUNT == 1:
        return tl.reshape(values[first], [BLOCK, 1])
    else:
        low = tile_of(values, first, BLOCK, COUNT // 2)
        high = tile_of(values, first + COUNT // 2, BLOCK, COUNT // 2)
        return tl.reshape(tl.permute(tl.join(low, high), [0, 2, 1]), [BLOCK, COUNT])


@triton.jit
def load_steps(ptr, t, step, length, ok, other, BLOCK: tl.constexpr, COUNT: tl.constexpr):
    """Steps t to t + COUNT - 1 of the rows at ptr, (BLOCK,) each; other before step 0, from length on, and where not ok. t: multiples of
    COUNT."""
    at = t[:, None] + tl.arange(0, COUNT)[None, :]
    tile = tl.load(ptr[:, None] + at * step, mask=(at < length) & (ok & (t >= 0))[:, None], other=other)
    return columns(tile, BLOCK, COUNT)


@triton.jit
def load_few(ptr, t, step, length, ok, other, first: tl.constexpr, FEW: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr):
    """Steps t + first to t + first + FEW - 1, first being -FEW or GROUP: with one instruction where they fit into a group."""
    COUNT: tl.constexpr = FEW if FEW <= 2 else 4 if FEW <= 4 else 8
    values = ()
    if FEW > 0:
        if COUNT <= GROUP:
            found = load_steps(ptr, t + (GROUP if first > 0 else -COUNT), step, length, ok, other, BLOCK, COUNT)
            for j in tl.static_range(FEW):
                values += (found[j if first > 0 else COUNT - FEW + j],)
        else:
            for j in tl.static_range(FEW):
                at = t + first + j
                values += (tl.load(ptr + at * step, mask=ok & (at >= 0) & (at < length), other=other),)
    return values


@triton.jit
def load_rows(
    x_ptr, initial_ptr, initial_d, initial_w, d, t, length, ok, LATER: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    GROUP: tl.constexpr, HAS_INITIAL: tl.constexpr,
):  # fmt: skip
    """Inputs of steps t - WIDTH + 1 to t + GROUP + LATER - 1, (BLOCK,) each in float32: before step 0 the initial state or zeros, zeros
    after the last. x_ptr, d, t, ok: (BLOCK,)."""
    found = load_few(x_ptr, t, 1, length, ok, 0.0, 1 - WIDTH, WIDTH - 1, BLOCK, GROUP)
    found += load_steps(x_ptr, t, 1, length, ok, 0.0, BLOCK, GROUP)
    found += load_few(x_ptr, t, 1, length, ok, 0.0, GROUP, LATER, BLOCK, GROUP)
    rows = ()
    for j in tl.static_range(WIDTH - 1 + GROUP + LATER):
        row = found[j].to(tl.float32)
        if HAS_INITIAL and j < WIDTH - 1:
            at = t + j  # this step's column of the initial state
            earlier = initial_ptr + d.to(tl.int64) * initial_d + at * initial_w
            row += tl.load(earlier, mask=(at < WIDTH - 1) & ok, other=0.0).to(tl.float32)
        rows += (row,)
    return rows


@triton.jit
def load_documents(seq_ptr, seq_l, t, length, LATER: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr):
    """Numbers of the documents of the same steps; what lies before step 0 belongs to step 0's. -1 after the last step."""
    at = seq_ptr + tl.zeros_like(t)
    found = load_few(at, t, seq_l, length, t < length, -1, 1 - WIDTH, WIDTH - 1, BLOCK, GROUP)
    found += load_steps(at, t, seq_l, length, t < length, -1, BLOCK, GROUP)
    found += load_few(at, t, seq_l, length, t < length, -1, GROUP, LATER, BLOCK, GROUP)
    first = tl.load(seq_ptr)
    documents = ()
    for j in tl.static_range(WIDTH - 1 + GROUP + LATER):
        documents += (tl.where(t + j < WIDTH - 1, first, found[j]),)
    return documents


@triton.jit
def conv_rows_forward_kernel(
    x_ptr, weight_ptr, bias_ptr, initial_ptr, seq_ptr, out_ptr,
    x_b, x_d, weight_d, weight_w, initial_b, initial_d, initial_w, seq_b, seq_l, out_b, out_d, length, channels, stretch,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, GROUP: tl.constexpr, UNIT: tl.constexpr, TILE: tl.constexpr,
    SILU: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_SEQ: tl.constexpr,
):  # fmt: skip
    """Grid: (blocks of ROWS channels, stretches, batch). x, out: (batch, channels, length), step stride 1; weight: (channels, WIDTH);
    initial: (batch, channels, WIDTH - 1); seq: (batch, length).

    A program walks BLOCK // ROWS groups of each of its rows at a time, stretch times, TILE of them with their loads in flight together.
    """
    PACE: tl.constexpr = BLOCK // ROWS * GROUP
    SPAN: tl.constexpr = WIDTH - 1 + GROUP
    b = tl.program_id(2).to(tl.int64)
    n = tl.arange(0, BLOCK)
    d = tl.program_id(0) * ROWS + n // (BLOCK // ROWS)
    length *= UNIT
    ok = d < channels
    x_ptr += (b * x_b + d.to(tl.int64) * x_d) * UNIT
    out_ptr += (b * out_b + d.to(tl.int64) * out_d) * UNIT
    initial_ptr += b * initial_b
    seq_ptr += b * seq_b
    taps = load_taps(weight_ptr, d, ok, weight_d, weight_w, WIDTH)
    bias = tl.zeros([BLOCK], tl.float32)
    if HAS_BIAS:
        bias += tl.load(bias_ptr + d, mask=ok, other=0.0).to(tl.float32)
    begin = tl.program_id(1) * stretch
    for s in range(begin, tl.minimum(begin + stretch, tl.cdiv(length, PACE)), TILE):
        rows = ()
        documents = ()
        for i in tl.static_range(TILE):
            t = (s + i) * PACE + n % (BLOCK // ROWS) * GROUP
            rows += load_rows(x_ptr, initial_ptr, initial_d, initial_w, d, t, length, ok, 0, WIDTH, BLOCK, GROUP, HAS_INITIAL)
            if HAS_SEQ:
                documents += load_documents(seq_ptr, seq_l, t, length, 0, WIDTH, BLOCK, GROUP)
        for i in tl.static_range(TILE):
            outs = ()
            for k in tl.static_range(GROUP):
                out = convolve(rows, documents, taps, bias, i * SPAN + k, WIDTH, HAS_SEQ)
                if SILU:
                    out *= sigmoid(out, x_ptr.dtype.element_ty)
                if HAS_SEQ:
                    out = tl.where(documents[i * SPAN + k + WIDTH - 1] >= 0, out, 0.0)
                outs += (out,)
            at = ((s + i) * PACE + n % (BLOCK // ROWS) * GROUP)[:, None] + tl.arange(0, GROUP)[None, :]
            tl.store(out_ptr[:, None] + at, tile_of(outs, 0, BLOCK, GROUP).to(out_ptr.dtype.element_ty), mask=(at < length) & ok[:, None])


@triton.jit
def conv_rows_backward_kernel(
    x_ptr, weight_ptr, bias_ptr, initial_ptr, seq_ptr, dout_ptr, dx_ptr, dinitial_ptr, partial_ptr,
    x_b, x_d, weight_d, weight_w, initial_b, initial_d, initial_w, seq_b, seq_l, dout_b, dout_d, dx_b, dx_d,
    length, channels, stretch,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, GROUP: tl.constexpr, UNIT: tl.constexpr,
    SILU: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_SEQ: tl.constexpr,
):  # fmt: skip
    """Grid as forward. With p the gradient before the silu, dx[t] = sum over j of taps[WIDTH - 1 - j] * p[t + j]: a lane computes p of
    its group and of the WIDTH - 1 steps after it.

    partial: (batch * stretches, WIDTH + HAS_BIAS, channels), float32 sums for the gradients of weight and bias.
    dinitial: (batch, channels, WIDTH - 1), contiguous.
    """
    PACE: tl.constexpr = BLOCK // ROWS * GROUP
    b = tl.program_id(2).to(tl.int64)
    n = tl.arange(0, BLOCK)
    d = tl.program_id(0) * ROWS + n // (BLOCK // ROWS)
    length *= UNIT
    ok = d < channels
    x_ptr += (b * x_b + d.to(tl.int64) * x_d) * UNIT
    dout_ptr += (b * dout_b + d.to(tl.int64) * dout_d) * UNIT
    dx_ptr += (b * dx_b + d.to(tl.int64) * dx_d) * UNIT
    initial_ptr += b * initial_b
    seq_ptr += b * seq_b
    taps = load_taps(weight_ptr, d, ok, weight_d, weight_w, WIDTH)
    bias = tl.zeros([BLOCK], tl.float32)
    if HAS_BIAS:
        bias += tl.load(bias_ptr + d, mask=ok, other=0.0).to(tl.float32)
    sums = ()
    for _ in tl.static_range(WIDTH + HAS_BIAS):
        sums += (tl.zeros([BLOCK], tl.float32),)
    begin = tl.program_id(1) * stretch
    for s in range(begin, tl.minimum(begin + stretch, tl.cdiv(length, PACE))):
        t = s * PACE + n % (BLOCK // ROWS) * GROUP
        rows = load_rows(x_ptr, initial_ptr, initial_d, initial_w, d, t, length, ok, WIDTH - 1, WIDTH, BLOCK, GROUP, HAS_INITIAL)
        douts = load_steps(dout_ptr, t, 1, length, ok, 0.0, BLOCK, GROUP)
        douts += load_few(dout_ptr, t, 1, length, ok, 0.0, GROUP, WIDTH - 1, BLOCK, GROUP)
        documents = ()
        if HAS_SEQ:
            documents = load_documents(seq_ptr, seq_l, t, length, WIDTH - 1, WIDTH, BLOCK, GROUP)
        ps = ()
        for k in tl.static_range(GROUP + WIDTH - 1):
            p = douts[k].to(tl.float32)
            if HAS_SEQ:
                p = tl.where(documents[k + WIDTH - 1] >= 0, p, 0.0)
            if SILU:
                before = convolve(rows, documents, taps, bias, k, WIDTH, HAS_SEQ)
                sigma = sigmoid(before, x_ptr.dtype.element_ty)
                p *= sigma * (1.0 + before * (1.0 - sigma))
            ps += (p,)
        for k in tl.static_range(GROUP):
            summed = ()
            for j in tl.static_range(WIDTH):
                row = rows[k + j]
                if HAS_SEQ:
                    row = tl.where(documents[k + j] == documents[k + WIDTH - 1], row, 0.0)
                summed += (sums[j] + ps[k] * row,)
            if HAS_BIAS:
                summed += (sums[WIDTH] + ps[k],)
            sums = summed
        dxs = ()
        for k in tl.static_range(GROUP):
            dxs += (gradient(ps, documents, taps, k, 0, WIDTH, HAS_SEQ),)
        at = t[:, None] + tl.arange(0, GROUP)[None, :]
        tl.store(dx_ptr[:, None] + at, tile_of(dxs, 0, BLOCK, GROUP).to(dx_ptr.dtype.element_ty), mask=(at < length) & ok[:, None])
        if HAS_INITIAL:
            for k in tl.static_range(1, WIDTH):
                earlier = gradient(ps, documents, taps, -k, k, WIDTH, HAS_SEQ)
                to = dinitial_ptr + (b * channels + d) * (WIDTH - 1) + WIDTH - 1 - k
                tl.store(to, earlier.to(dinitial_ptr.dtype.element_ty), mask=(t == 0) & ok)
    row = b * tl.num_programs(1) + tl.program_id(1)
    first = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    for j in tl.static_range(WIDTH + HAS_BIAS):
        total = tl.sum(tl.reshape(sums[j], [ROWS, BLOCK // ROWS]), 1)
        tl.store(partial_ptr + (row * (WIDTH + HAS_BIAS) + j) * channels + first, total, mask=first < channels)


@triton.jit
def gradient(ps, documents, taps, k: tl.constexpr, least: tl.constexpr, WIDTH: tl.constexpr, HAS_SEQ: tl.constexpr):
    """Gradient of the input k steps after the group's first: taps[WIDTH - 1 - j] * ps[k + j], summed over j from least on."""
    total = 0.0
    for j in tl.static_range(least, WIDTH):
        met = ps[k + j]
        if HAS_SEQ:
            met = tl.where(documents[k + WIDTH - 1] == documents[k + j + WIDTH - 1], met, 0.0)
        total += taps[WIDTH - 1 - j] * met
    return total

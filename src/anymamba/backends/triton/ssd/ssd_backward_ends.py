"""Mamba-2's scan, backward, before and after the products of ssd_backward: the gate, and what the exponents' gradients sum to."""

from __future__ import annotations

import triton
import triton.language as tl

from anymamba.backends.triton.elementary import sigmoid, softplus


@triton.jit(do_not_specialize=["length", "heads"])
def ssd_gate_backward_kernel(
    dout_ptr, z_ptr, ungated_ptr, dy_ptr, low_ptr, dz_ptr,
    dout_b, dout_l, dout_h, dout_p, z_b, z_l, z_h, z_p, length, heads,
    P: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_H: tl.constexpr, HAS_LOW: tl.constexpr,
):  # fmt: skip
    """dy = dout * silu(z), dz = dout * y * silu'(z). Grid: (length, blocks of heads, batch). dy, low, dz, ungated: contiguous.

    low: what dy lacks after its rounding to 16 bits. Gradients of A and D are sums over all tokens that nearly cancel."""
    b = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    p = tl.arange(0, BLOCK_P)
    live = (h < heads)[:, None] & (p < P)[None, :]
    dout_at = b * dout_b + t * dout_l + h.to(tl.int64)[:, None] * dout_h + p[None, :] * dout_p
    dout = tl.load(dout_ptr + dout_at, mask=live, other=0.0).to(tl.float32)
    z_at = b * z_b + t * z_l + h.to(tl.int64)[:, None] * z_h + p[None, :] * z_p
    z = tl.load(z_ptr + z_at, mask=live, other=0.0).to(tl.float32)
    at = ((b * length + t) * heads + h[:, None]) * P + p[None, :]
    y = tl.load(ungated_ptr + at, mask=live, other=0.0).to(tl.float32)
    s = sigmoid(z, z_ptr.dtype.element_ty)
    dy = dout * z * s
    rounded = dy.to(dy_ptr.dtype.element_ty)
    tl.store(dy_ptr + at, rounded, mask=live)
    if HAS_LOW:
        tl.store(low_ptr + at, (dy - rounded.to(tl.float32)).to(dy_ptr.dtype.element_ty), mask=live)
    tl.store(dz_ptr + at, (dout * y * s * (1.0 + z * (1.0 - s))).to(dz_ptr.dtype.element_ty), mask=live)


@triton.jit(do_not_specialize=["row_share", "length", "heads", "heads_per_group", "padded"])
def ssd_exponents_backward_kernel(
    dt_ptr, A_ptr, bias_ptr, seq_ptr, steps_ptr, of_row_ptr, of_column_ptr, into_state_ptr, carried_ptr, own_ptr, own_CB_ptr,
    ddt_ptr, dbias_ptr, dA_ptr, dD_ptr,
    dt_b, dt_l, dt_h, seq_b, seq_l, row_share, length, heads, heads_per_group, padded, low, high,
    Q: tl.constexpr, BLOCK_H: tl.constexpr, PARTS: tl.constexpr, SOFTPLUS: tl.constexpr, LIMIT: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_SEQ: tl.constexpr, HAS_D: tl.constexpr, FLOAT64: tl.constexpr,
):  # fmt: skip
    """Puts the gradients of the exponents of a chunk together. Grid as ssd_steps_kernel; inputs as ssd_backward_kernel left
    them. ddt: (batch, length, heads), contiguous. dbias, dA, dD: (batch, chunks, heads), partial sums. A clamped step passes nothing
    on to dt. FLOAT64: for float32 inputs, sums of rows and columns, which nearly cancel, are added in float64."""
    wide: tl.constexpr = tl.float64 if FLOAT64 else tl.float32
    b = tl.program_id(2).to(tl.int64)
    c = tl.program_id(0)
    t = c * Q + tl.arange(0, Q)
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    real = (h < heads)[None, :]
    steps = tl.load(steps_ptr + (b * heads + h[None, :]) * padded + t[:, None], mask=real, other=0.0)
    row = b * tl.num_programs(0) + c
    direct = tl.zeros([Q, BLOCK_H], wide)
    of_row = tl.zeros([Q, BLOCK_H], wide)
    at_end = tl.zeros([BLOCK_H], wide)
    own = tl.zeros([Q, BLOCK_H], tl.float32)
    for part in tl.static_range(PARTS):
        at = ((b * heads + h[None, :]) * PARTS + part) * padded + t[:, None]
        into_state = tl.load(into_state_ptr + at, mask=real, other=0.0)
        direct += tl.load(of_column_ptr + at, mask=real, other=0.0).to(wide) + into_state
        of_row += tl.load(of_row_ptr + at, mask=real, other=0.0)
        of_row += tl.load(of_row_ptr + row_share + at, mask=real, other=0.0)
        at_end += tl.load(carried_ptr + (row * heads + h) * PARTS + part, mask=h < heads, other=0.0)
        at_end += tl.sum(into_state.to(wide) * steps, axis=0)
        own += tl.load(own_ptr + at, mask=real, other=0.0)
    groups = heads // heads_per_group
    own_CB = tl.load(own_CB_ptr + (b * groups + h[None, :] // heads_per_group) * padded + t[:, None], mask=real, other=0.0)
    # the sum s[t] stands in the exponents of row t and column t; the last one in those of the state as well
    suffix = tl.cumsum(of_row - steps * direct, axis=0, reverse=True) + at_end[None, :]
    A = tl.load(A_ptr + h, mask=h < heads, other=0.0).to(tl.float32)
    gradient = (direct + own * own_CB + A[None, :] * suffix).to(tl.float32)
    tl.store(dA_ptr + row * heads + h, tl.sum(suffix * steps, axis=0).to(tl.float32), mask=h < heads)
    if HAS_D:
        tl.store(dD_ptr + row * heads + h, tl.sum(own, axis=0), mask=h < heads)
    live = (t < length)[:, None] & real
    dt = tl.load(dt_ptr + b * dt_b + t.to(tl.int64)[:, None] * dt_l + h[None, :] * dt_h, mask=live, other=0.0).to(tl.float32)
    if HAS_BIAS:
        dt += tl.load(bias_ptr + h, mask=h < heads, other=0.0).to(tl.float32)[None, :]
    if LIMIT:
        step = dt
        if SOFTPLUS:
            step = softplus(dt)
        gradient = tl.where((step >= low) & (step <= high), gradient, 0.0)
    if HAS_SEQ:
        kept = tl.load(seq_ptr + b * seq_b + t * seq_l, mask=t < length, other=-1) >= 0
        gradient = tl.where(kept[:, None], gradient, 0.0)
    if SOFTPLUS:
        gradient *= sigmoid(dt)
    gradient = tl.where(live, gradient, 0.0)
    tl.store(ddt_ptr + (b * length + t[:, None]) * heads + h[None, :], gradient.to(ddt_ptr.dtype.element_ty), mask=live)
    if HAS_BIAS:
        tl.store(dbias_ptr + row * heads + h, tl.sum(gradient, axis=0), mask=h < heads)

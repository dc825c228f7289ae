"""Mamba-2's scan, backward. The states and their gradients come from two walks over the chunks (ssd_walk_kernel); then all chunks
are handled in parallel.

Inside a chunk, with s[t] the running sum of dt * A, L[t, s] = exp(s[t] - s[s]) for t >= s and M = C B^T * L:

    out[t] = sum over s of M[t, s] dt[s] x[s] + exp(s[t]) C[t] . state + D x[t]

Programs sum dB and dC over several heads of a group and write them to a place of their own; a second pass adds these up.
"""

from __future__ import annotations

import triton
import triton.language as tl

from anymamba.backends.triton.elementary import sigmoid, softplus


@triton.jit
def ssd_backward_kernel(
    x_ptr, dy_ptr, B_ptr, C_ptr, A_ptr, D_ptr, steps_ptr, sums_ptr, documents_ptr, states_ptr, dstates_ptr,
    dx_ptr, dB_ptr, dC_ptr, dsteps_ptr, dA_ptr, dD_ptr,
    x_b, x_l, x_h, x_p, dy_b, dy_l, dy_h, dy_p, B_b, B_l, B_g, B_n, C_b, C_l, C_g, C_n, D_h, D_p,
    length, padded, heads, heads_per_group,
    Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, HEADS: tl.constexpr,
    HAS_D: tl.constexpr, HAS_SEQ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: (groups * blocks of HEADS heads, chunks, batch). states: before each chunk; dstates: gradient of those after it.

    dx: (batch, length, heads, P) contiguous. dB, dC: (blocks, batch, length, groups, N) float32. dsteps: (batch, heads, padded).
    dA: (batch, chunks, heads); dD: (batch, chunks, heads, P), float32 partial sums.
    """
    blocks = tl.cdiv(heads_per_group, HEADS)
    g = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    groups = tl.num_programs(0) // blocks
    c = tl.program_id(1)
    chunks = tl.num_programs(1)
    b = tl.program_id(2).to(tl.int64)
    p = tl.arange(0, BLOCK_P)
    n = tl.arange(0, BLOCK_N)
    q = tl.arange(0, Q)
    t = c * Q + q
    start = (c * Q).to(tl.int64)
    rows = (t < length)[:, None]
    in_N = rows & (n < N)[None, :]
    in_P = rows & (p < P)[None, :]
    in_state = (p < P)[:, None] & (n < N)[None, :]
    B = tl.load(B_ptr + b * B_b + g.to(tl.int64) * B_g + start * B_l + (q[:, None] * B_l + n[None, :] * B_n), mask=in_N, other=0.0)
    C = tl.load(C_ptr + b * C_b + g.to(tl.int64) * C_g + start * C_l + (q[:, None] * C_l + n[None, :] * C_n), mask=in_N, other=0.0)
    CB = tl.dot(C, tl.trans(B), input_precision=PRECISION)
    causal = q[:, None] >= q[None, :]
    if HAS_SEQ:
        documents_ptr += b * padded
        documents = tl.load(documents_ptr + t)
        before = tl.load(documents_ptr + tl.maximum(c * Q - 1, 0)) * tl.where(c > 0, 1, 0)
        after = tl.load(documents_ptr + c * Q + Q - 1)
        causal = causal & (documents[:, None] == documents[None, :])
    dCB = tl.zeros([Q, Q], tl.float32)
    dB = tl.zeros([Q, BLOCK_N], tl.float32)
    dC = tl.zeros([Q, BLOCK_N], tl.float32)
    first = g * heads_per_group + block * HEADS
    for h in range(first, tl.minimum(first + HEADS, (g + 1) * heads_per_group)):
        head = tl.cast(h, tl.int64)
        sums = tl.load(sums_ptr + (b * heads + head) * padded + t)
        total = tl.load(sums_ptr + (b * heads + head) * padded + c * Q + Q - 1)
        steps = tl.load(steps_ptr + (b * heads + head) * padded + t)
        x = tl.load(x_ptr + b * x_b + head * x_h + start * x_l + (q[:, None] * x_l + p[None, :] * x_p), mask=in_P, other=0.0)
        dy = tl.load(dy_ptr + b * dy_b + head * dy_h + start * dy_l + (q[:, None] * dy_l + p[None, :] * dy_p), mask=in_P, other=0.0)
        state_at = ((b * chunks + c) * heads + head) * P * N + (p[:, None] * N + n[None, :])
        state = tl.load(states_ptr + state_at, mask=in_state, other=0.0).to(x.dtype)
        dstate = tl.load(dstates_ptr + state_at, mask=in_state, other=0.0).to(x.dtype)
        reach = tl.exp2(sums)
        to_end = tl.exp2(total - sums)
        carried = tl.exp2(total)
        if HAS_SEQ:
            reach = tl.where(documents == before, reach, 0.0)
            to_end = tl.where(documents == after, to_end, 0.0)
            carried = tl.where(before == after, carried, 0.0)
        decay = tl.where(causal, tl.exp2(sums[:, None] - sums[None, :]), 0.0)
        dmixing = tl.dot(dy, tl.trans(x), input_precision=PRECISION) * decay
        dCB += dmixing * steps[None, :]
        through = dmixing * CB
        of_row = tl.sum(through * steps[None, :], axis=1)
        of_column = tl.sum(through, axis=0)
        mixing = (CB * decay).to(dy.dtype)

        # gradient of dt * x
        v = tl.dot(B, tl.trans(dstate), input_precision=PRECISION) * to_end[:, None]
        v = tl.dot(tl.trans(mixing), dy, acc=v, input_precision=PRECISION)
        dx = v * steps[:, None]
        if HAS_D:
            D = tl.load(D_ptr + head * D_h + p * D_p, mask=p < P, other=0.0).to(tl.float32)
            dx += D[None, :] * dy.to(tl.float32)
            dD_at = dD_ptr + ((b * chunks + c) * heads + head) * P + p
            tl.store(dD_at, tl.sum(dy.to(tl.float32) * x.to(tl.float32), axis=0), mask=p < P)
        dx_at = ((b * length + start) * heads + head) * P + (q[:, None] * (heads * P) + p[None, :])
        tl.store(dx_ptr + dx_at, dx.to(dx_ptr.dtype.element_ty), mask=in_P)

        from_state = tl.dot(dy, state, input_precision=PRECISION) * reach[:, None]
        dC += from_state
        of_row += tl.sum(from_state * C.to(tl.float32), axis=1)
        to_state = tl.dot(x, dstate, input_precision=PRECISION) * to_end[:, None]
        dB += to_state * steps[:, None]
        into_state = tl.sum(to_state * B.to(tl.float32), axis=1)

        # the sum s[t] stands in the exponents of row t and column t; the last one in those of the state as well
        direct = of_column + into_state
        dsums = of_row - steps * direct
        at_end = carried * tl.sum(tl.sum(state.to(tl.float32) * dstate.to(tl.float32), axis=1), axis=0)
        at_end += tl.sum(into_state * steps, axis=0)
        suffix = tl.cumsum(dsums, axis=0, reverse=True) + at_end
        A = tl.load(A_ptr + head).to(tl.float32)
        tl.store(dsteps_ptr + (b * heads + head) * padded + t, direct + A * suffix)
        tl.store(dA_ptr + (b * chunks + c) * heads + head, tl.sum(suffix * steps, axis=0))
    dC = tl.dot(dCB.to(B.dtype), B, acc=dC, input_precision=PRECISION)
    dB = tl.dot(tl.trans(dCB.to(C.dtype)), C, acc=dB, input_precision=PRECISION)
    out_at = (((block * tl.num_programs(2) + b) * length + start) * groups + g) * N + (q[:, None] * (groups * N) + n[None, :])
    tl.store(dB_ptr + out_at, dB, mask=in_N)
    tl.store(dC_ptr + out_at, dC, mask=in_N)


@triton.jit(do_not_specialize=["length", "heads", "padded"])
def ssd_steps_backward_kernel(
    dt_ptr, bias_ptr, seq_ptr, dsteps_ptr, ddt_ptr, dbias_ptr,
    dt_b, dt_l, dt_h, seq_b, seq_l, length, heads, padded, low, high,
    Q: tl.constexpr, BLOCK_H: tl.constexpr, SOFTPLUS: tl.constexpr, LIMIT: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SEQ: tl.constexpr,
):  # fmt: skip
    """From the gradient of the step sizes to that of dt (batch, length, heads), contiguous, and of dt_bias, (batch, chunks, heads)
    partial sums. A clamped step passes nothing on. Grid as ssd_steps_kernel."""
    b = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * Q + tl.arange(0, Q)
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    live = (t < length)[:, None] & (h < heads)[None, :]
    dt = tl.load(dt_ptr + b * dt_b + t.to(tl.int64)[:, None] * dt_l + h[None, :] * dt_h, mask=live, other=0.0).to(tl.float32)
    if HAS_BIAS:
        dt += tl.load(bias_ptr + h, mask=h < heads, other=0.0).to(tl.float32)[None, :]
    gradient = tl.load(dsteps_ptr + (b * heads + h[None, :]) * padded + t[:, None], mask=live, other=0.0)
    if LIMIT:
        step = dt
        if SOFTPLUS:
            step = softplus(dt)
        gradient = tl.where((step >= low) & (step <= high), gradient, 0.0)
    if HAS_SEQ:
        real = tl.load(seq_ptr + b * seq_b + t * seq_l, mask=t < length, other=-1) >= 0
        gradient = tl.where(real[:, None], gradient, 0.0)
    if SOFTPLUS:
        gradient *= sigmoid(dt)
    at = (b * length + t[:, None]) * heads + h[None, :]
    tl.store(ddt_ptr + at, gradient.to(ddt_ptr.dtype.element_ty), mask=live)
    if HAS_BIAS:
        row = b * tl.num_programs(0) + tl.program_id(0)
        tl.store(dbias_ptr + row * heads + h, tl.sum(gradient, axis=0), mask=h < heads)


@triton.jit(do_not_specialize=["length", "heads"])
def ssd_gate_backward_kernel(
    dout_ptr, z_ptr, ungated_ptr, dy_ptr, dz_ptr,
    dout_b, dout_l, dout_h, dout_p, z_b, z_l, z_h, z_p, length, heads,
    P: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """dy = dout * silu(z), dz = dout * y * silu'(z). Grid: (length, blocks of heads, batch). dy, dz, ungated: contiguous."""
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
    s = sigmoid(z)
    tl.store(dy_ptr + at, (dout * z * s).to(dy_ptr.dtype.element_ty), mask=live)
    tl.store(dz_ptr + at, (dout * y * s * (1.0 + z * (1.0 - s))).to(dz_ptr.dtype.element_ty), mask=live)

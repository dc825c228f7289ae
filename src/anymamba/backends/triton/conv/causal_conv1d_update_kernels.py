"""A few steps of the causal depthwise convolution from a state of the last inputs, which is changed in place."""

from __future__ import annotations

import triton
import triton.language as tl

from anymamba.backends.triton.conv.causal_conv1d_kernels import last_of, load_taps
from anymamba.backends.triton.elementary import sigmoid


@triton.jit
def causal_conv1d_update_kernel(
    x_ptr, state_ptr, weight_ptr, bias_ptr, seen_ptr, rows_ptr, out_ptr,
    x_b, x_d, x_l, state_b, state_d, state_l, weight_d, weight_w, out_b, out_d, out_l, channels, steps, state_len,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, SILU: tl.constexpr, HAS_BIAS: tl.constexpr, CIRCULAR: tl.constexpr,
    HAS_ROWS: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """Grid: (blocks of channels, batch). x, out: (batch, channels, steps); state: (rows, channels, state_len), changed in place.
    seen: (batch,) with CIRCULAR; rows: (batch,), negative for padding. KEPT: state_len, rounded up to a power of 2."""
    b = tl.program_id(1).to(tl.int64)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    ok = d < channels
    x_ptr += b * x_b + d.to(tl.int64) * x_d
    out_ptr += b * out_b + d.to(tl.int64) * out_d
    row = b
    if HAS_ROWS:
        row = tl.load(rows_ptr + b).to(tl.int64)
    if row < 0:
        for s in range(0, steps):
            tl.store(out_ptr + s * out_l, tl.zeros([BLOCK_D], tl.float32).to(out_ptr.dtype.element_ty), mask=ok)
    else:
        state_at = state_ptr + row * state_b + d.to(tl.int64) * state_d
        taps = load_taps(weight_ptr, d, ok, weight_d, weight_w, WIDTH)
        bias = tl.zeros([BLOCK_D], tl.float32)
        if HAS_BIAS:
            bias += tl.load(bias_ptr + d, mask=ok, other=0.0).to(tl.float32)
        seen = 0
        if CIRCULAR:
            seen = tl.load(seen_ptr + b).to(tl.int32)
        carried = ()
        for j in tl.static_range(WIDTH - 1):
            column = state_len - (WIDTH - 1) + j
            if CIRCULAR:
                column = (seen + column) % state_len
            carried += (tl.load(state_at + column * state_l, mask=ok, other=0.0).to(tl.float32),)
        if not CIRCULAR:
            # the shift: column k becomes what lies steps further on, in the state or among the new inputs
            k = tl.arange(0, KEPT)
            further = k + steps
            from_state = (further < state_len) & (k < state_len)
            from_x = (further >= state_len) & (k < state_len)
            moved = tl.load(state_at[:, None] + (further * state_l)[None, :], mask=ok[:, None] & from_state[None, :], other=0.0)
            new = tl.load(x_ptr[:, None] + ((further - state_len) * x_l)[None, :], mask=ok[:, None] & from_x[None, :], other=0.0)
            moved = tl.where(from_x[None, :], new.to(state_ptr.dtype.element_ty), moved)
            tl.debug_barrier()
            tl.store(state_at[:, None] + (k * state_l)[None, :], moved, mask=ok[:, None] & (k < state_len)[None, :])
        for s in range(0, steps):
            now = tl.load(x_ptr + s * x_l, mask=ok, other=0.0)
            rows = carried + (now.to(tl.float32),)
            out = bias
            for j in tl.static_range(WIDTH):
                out += taps[j] * rows[j]
            if SILU:
                out *= sigmoid(out)
            tl.store(out_ptr + s * out_l, out.to(out_ptr.dtype.element_ty), mask=ok)
            if CIRCULAR:
                tl.store(state_at + ((seen + s) % state_len) * state_l, now.to(state_ptr.dtype.element_ty), mask=ok)
            carried = last_of(rows, 1, WIDTH - 1)

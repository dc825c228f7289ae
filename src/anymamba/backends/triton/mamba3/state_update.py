"""mamba3_state_update, one token of Mamba-3's recurrence: one Triton kernel, bound by the traffic of the state."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.triton.elementary import LOG2E, silu
from anymamba.backends.triton.launch import on_device, power_of_2, runs_here
from anymamba.language import _


def supports(call: Call) -> tuple[bool, str]:
    """Every option; ranks of up to 16, for a kernel is compiled with them one after another."""
    ok, reason = runs_here(call)
    if ok and call.size("rank", 1) > 16:
        return False, _("the rank is at most 16")
    return ok, reason


@triton.jit
def mamba3_state_update_kernel(
    state_ptr, k_last_ptr, v_last_ptr, A_ptr, k_ptr, q_ptr, D_ptr, x_ptr, dt_ptr, trap_ptr, up_ptr, down_ptr, z_ptr, gate_ptr, out_ptr,
    state_b, state_h, state_p, state_n, k_last_b, k_last_r, k_last_h, k_last_n, v_last_b, v_last_h, v_last_p, A_b, A_h,
    k_b, k_r, k_h, k_n, q_b, q_r, q_h, q_n, D_h, x_b, x_h, x_p, dt_b, dt_h, trap_b, trap_h, up_r, up_h, up_p, down_r, down_h, down_p,
    z_b, z_h, z_p, gate_r, gate_h, gate_p, out_b, out_r, out_h, headdim,
    RANK: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_DOWN: tl.constexpr,
):  # fmt: skip
    """Grid: (blocks of headdim, nheads, batch). state: changed in place. k_last, v_last: Bstate, Xstate; k, q: B, C; up, down, gate: xproj,
    outproj, zproj. out: (batch, rank, nheads, headdim), of which HAS_DOWN leaves one, the sum over ranks."""
    h = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    p = (tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
    n = tl.arange(0, BLOCK_N).to(tl.int64)
    live = p < headdim
    there = n < N
    both = live[:, None] & there[None, :]
    state_at = state_ptr + b * state_b + h * state_h + p[:, None] * state_p + n[None, :] * state_n
    dt = tl.load(dt_ptr + b * dt_b + h * dt_h).to(tl.float32)
    trap = tl.load(trap_ptr + b * trap_b + h * trap_h).to(tl.float32)
    decay = tl.exp2(tl.load(A_ptr + b * A_b + h * A_h).to(tl.float32) * dt * LOG2E)
    x = tl.load(x_ptr + b * x_b + h * x_h + p * x_p, mask=live, other=0.0).to(tl.float32)
    before = tl.load(v_last_ptr + b * v_last_b + h * v_last_h + p * v_last_p, mask=live, other=0.0).to(tl.float32)
    old = before * ((1.0 - trap) * dt * decay)
    new = x * (trap * dt)
    state = tl.load(state_at, mask=both, other=0.0).to(tl.float32) * decay
    for r in tl.static_range(RANK):
        up = tl.load(up_ptr + r * up_r + h * up_h + p * up_p, mask=live, other=0.0).to(tl.float32)
        k_last = tl.load(k_last_ptr + b * k_last_b + r * k_last_r + h * k_last_h + n * k_last_n, mask=there, other=0.0).to(tl.float32)
        k = tl.load(k_ptr + b * k_b + r * k_r + h * k_h + n * k_n, mask=there, other=0.0).to(tl.float32)
        state += (old * up)[:, None] * k_last[None, :] + (new * up)[:, None] * k[None, :]
    tl.store(state_at, state.to(state_ptr.dtype.element_ty), mask=both)
    if HAS_D:
        skip = tl.load(D_ptr + h * D_h).to(tl.float32) * x
    if HAS_Z:
        z = tl.load(z_ptr + b * z_b + h * z_h + p * z_p, mask=live, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK_P], tl.float32)
    for r in tl.static_range(RANK):
        q = tl.load(q_ptr + b * q_b + r * q_r + h * q_h + n * q_n, mask=there, other=0.0).to(tl.float32)
        y = tl.sum(state * q[None, :], axis=1)
        if HAS_D:
            y += skip * tl.load(up_ptr + r * up_r + h * up_h + p * up_p, mask=live, other=0.0).to(tl.float32)
        if HAS_Z:
            y *= silu(z * tl.load(gate_ptr + r * gate_r + h * gate_h + p * gate_p, mask=live, other=0.0).to(tl.float32))
        if HAS_DOWN:
            total += y * tl.load(down_ptr + r * down_r + h * down_h + p * down_p, mask=live, other=0.0).to(tl.float32)
        else:
            tl.store(out_ptr + b * out_b + r * out_r + h * out_h + p, y.to(out_ptr.dtype.element_ty), mask=live)
    if HAS_DOWN:
        tl.store(out_ptr + b * out_b + h * out_h + p, total.to(out_ptr.dtype.element_ty), mask=live)


def mamba3_state_update(
    state: Tensor,
    Bstate: Tensor,
    Xstate: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    x: Tensor,
    dt: Tensor,
    trap: Tensor,
    xproj: Tensor,
    outproj: Tensor | None = None,
    z: Tensor | None = None,
    zproj: Tensor | None = None,
) -> Tensor:
    """See anymamba.ops.mamba3_state_update. state is changed in place; any strides, also 0."""
    batch, heads, headdim, d_state = state.shape
    rank = xproj.shape[0]
    ranks = () if outproj is not None else (rank,)
    out = torch.empty(batch, *ranks, heads, headdim, dtype=x.dtype, device=x.device)
    out_strides = (out.stride(0), 0 if outproj is not None else out.stride(1), out.stride(-2))
    block_n = power_of_2(d_state)
    block_p = min(power_of_2(headdim), max(2048 // block_n, 1))
    gate = None if z is None else zproj
    with torch.no_grad(), on_device(x):
        mamba3_state_update_kernel[(-(-headdim // block_p), heads, batch)](
            state, Bstate, Xstate, A, B, C, D, x, dt, trap, xproj, outproj, z, gate, out,
            *state.stride(), *Bstate.stride(), *Xstate.stride(), *A.stride(), *B.stride(), *C.stride(), *_strides(D, 1), *x.stride(),
            *dt.stride(), *trap.stride(), *xproj.stride(), *_strides(outproj, 3), *_strides(z, 3), *_strides(gate, 3), *out_strides,
            headdim, RANK=rank, N=d_state, BLOCK_N=block_n, BLOCK_P=block_p, HAS_D=D is not None, HAS_Z=z is not None,
            HAS_DOWN=outproj is not None, num_warps=4 if block_n * block_p > 1024 else 1, num_stages=1,
        )  # fmt: skip
    return out


def _strides(x: Tensor | None, dimensions: int) -> tuple[int, ...]:
    return (0,) * dimensions if x is None else x.stride()

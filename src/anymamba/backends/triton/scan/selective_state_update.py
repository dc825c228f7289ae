"""selective_state_update, one token of the scan of Mamba-1 or Mamba-2: one Triton kernel, bound by the traffic of the state."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.triton.elementary import LOG2E, silu, softplus
from anymamba.backends.triton.launch import on_device, power_of_2, runs_here
from anymamba.language import _


def supports(call: Call) -> tuple[bool, str]:
    """Every option, real A."""
    ok, reason = runs_here(call)
    if ok and "complex_A" in call.features:
        return False, _("has no kernel for complex A")
    return ok, reason


@triton.jit
def selective_state_update_kernel(
    state_ptr, x_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, rows_ptr, out_ptr,
    state_b, state_h, state_p, state_n, x_b, x_h, x_p, dt_b, dt_h, dt_p, A_h, A_p, A_n, B_b, B_h, B_n, C_b, C_h, C_n,
    D_h, D_p, z_b, z_h, z_p, bias_h, bias_p, out_b, out_h, out_p, headdim, heads_per_group,
    N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, SOFTPLUS: tl.constexpr, TIED: tl.constexpr,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_ROWS: tl.constexpr,
):  # fmt: skip
    """Grid: (blocks of headdim, nheads, batch). state: (rows, nheads, headdim, N), changed in place. TIED: A, dt and dt_bias are the
    same for the whole head, so that the decay is one number. rows: (batch,), negative for padding."""
    h = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    p = (tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
    n = tl.arange(0, BLOCK_N).to(tl.int64)
    live = p < headdim
    both = live[:, None] & (n < N)[None, :]
    out_ptr += b * out_b + h * out_h + p * out_p
    row = b
    if HAS_ROWS:
        row = tl.load(rows_ptr + b).to(tl.int64)
    if row < 0:
        tl.store(out_ptr, tl.zeros([BLOCK_P], tl.float32).to(out_ptr.dtype.element_ty), mask=live)
    else:
        state_at = state_ptr + row * state_b + h * state_h + p[:, None] * state_p + n[None, :] * state_n
        state = tl.load(state_at, mask=both, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + b * x_b + h * x_h + p * x_p, mask=live, other=0.0).to(tl.float32)
        group = h // heads_per_group
        B = tl.load(B_ptr + b * B_b + group * B_h + n * B_n, mask=n < N, other=0.0).to(tl.float32)
        C = tl.load(C_ptr + b * C_b + group * C_h + n * C_n, mask=n < N, other=0.0).to(tl.float32)
        if TIED:
            dt = tl.load(dt_ptr + b * dt_b + h * dt_h).to(tl.float32)
            if HAS_BIAS:
                dt += tl.load(bias_ptr + h * bias_h).to(tl.float32)
            if SOFTPLUS:
                dt = softplus(dt)
            state = state * tl.exp2(dt * tl.load(A_ptr + h * A_h).to(tl.float32) * LOG2E)
        else:
            dt = tl.load(dt_ptr + b * dt_b + h * dt_h + p * dt_p, mask=live, other=0.0).to(tl.float32)
            if HAS_BIAS:
                dt += tl.load(bias_ptr + h * bias_h + p * bias_p, mask=live, other=0.0).to(tl.float32)
            if SOFTPLUS:
                dt = softplus(dt)
            A = tl.load(A_ptr + h * A_h + p[:, None] * A_p + n[None, :] * A_n, mask=both, other=0.0).to(tl.float32)
            state = state * tl.exp2(dt[:, None] * (A * LOG2E))
        state += (dt * x)[:, None] * B[None, :]
        tl.store(state_at, state.to(state_ptr.dtype.element_ty), mask=both)
        y = tl.sum(state * C[None, :], axis=1)
        if HAS_D:
            y += tl.load(D_ptr + h * D_h + p * D_p, mask=live, other=0.0).to(tl.float32) * x
        if HAS_Z:
            y *= silu(tl.load(z_ptr + b * z_b + h * z_h + p * z_p, mask=live, other=0.0).to(tl.float32))
        tl.store(out_ptr, y.to(out_ptr.dtype.element_ty), mask=live)


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    """See anymamba.ops.selective_state_update. state is changed in place; any strides, also 0."""
    out = torch.empty_like(x)
    if B.dim() == 2:
        B, C = B.unsqueeze(1), C.unsqueeze(1)
    groups = B.shape[1]
    result = out
    if x.dim() == 2:
        # channels that share B and C take the place of a head
        state, x, dt, out = (t.unflatten(1, (groups, -1)) for t in (state, x, dt, out))
        A = A.unflatten(0, (groups, -1))
        z = None if z is None else z.unflatten(1, (groups, -1))
        D, dt_bias = (None if t is None else t.unflatten(0, (groups, -1)) for t in (D, dt_bias))
    batch, heads, headdim = x.shape
    states = A.shape[-1]
    tied = A.stride(1) == 0 == A.stride(2) and dt.stride(2) == 0 and (dt_bias is None or dt_bias.stride(1) == 0)
    block_n = power_of_2(states)
    block_p = min(power_of_2(headdim), max(1024 // block_n, 1))
    if result.numel():
        grid = (-(-headdim // block_p), heads, batch)
        with torch.no_grad(), on_device(x):
            selective_state_update_kernel[grid](
                state, x, dt, A, B, C, D, z, dt_bias, state_batch_indices, out,
                *state.stride(), *x.stride(), *dt.stride(), *A.stride(), *B.stride(), *C.stride(),
                *_strides(D, 2), *_strides(z, 3), *_strides(dt_bias, 2), *out.stride(), headdim, heads // groups,
                N=states, BLOCK_N=block_n, BLOCK_P=block_p, SOFTPLUS=bool(dt_softplus), TIED=tied,
                HAS_D=D is not None, HAS_Z=z is not None, HAS_BIAS=dt_bias is not None,
                HAS_ROWS=state_batch_indices is not None, num_warps=1 if block_n * block_p <= 1024 else 4, num_stages=1,
            )  # fmt: skip
    return result


def _strides(x: Tensor | None, dimensions: int) -> tuple[int, ...]:
    return (0,) * dimensions if x is None else x.stride()

"""selective_scan_fn on Triton kernels: launches and memory. The mathematics is in selective_scan_forward and _backward."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.scan_node import Scan, selective_scan
from anymamba.backends.triton.launch import on_device, runs_here
from anymamba.backends.triton.scan.selective_scan_backward import (
    selective_scan_backward_kernel,
    selective_scan_reverse_kernel,
)
from anymamba.backends.triton.scan.selective_scan_documents import marks_of
from anymamba.backends.triton.scan.selective_scan_forward import selective_scan_forward_kernel
from anymamba.backends.triton.scan.selective_scan_plan import ScanPlan, backward_plan, forward_plan
from anymamba.language import _


def supports(call: Call) -> tuple[bool, str]:
    """All but a complex A and a B or C that is constant in time."""
    ok, reason = runs_here(call)
    if not ok:
        return ok, reason
    if "complex_A" in call.features:
        return False, _("has no kernel for complex A")
    if call.features & {"constant_B", "constant_C"}:
        return False, _("has no kernel for B or C constant in time")
    if call.size("d_state") > 256:
        return False, _("d_state is at most 256")
    return True, reason


def variant(call: Call) -> str:
    """The kernels walk along what lies side by side in memory; states are unrolled."""
    beside = "steps" if "length_contiguous" in call.features else "channels"
    extra = "".join(f", {word}" for word in ("groups", "initial_states", "seq_idx") if word in call.features)
    return f"{beside} side by side, {call.size('d_state', 16)} states{extra}"


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """See anymamba.ops.selective_scan.selective_scan. u, delta, z: (batch, d_inner, length); fastest where the channel stride is 1."""
    marks = None if seq_idx is None else marks_of(seq_idx)
    return selective_scan(SCAN, u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, initial_states, marks)


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
    return_last_state: bool,
    training: bool,
    initial: Tensor | None = None,
    marks: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None, int]:
    """out, last state or None, with training the states that backward starts from, and every how many steps these are."""
    batch, channels, length = u.shape
    plan = forward_plan(batch, channels, length, A.shape[1], u.device, u.dtype == torch.float32)
    given = u, delta, A, B, C, D, z, delta_bias, softplus, return_last_state, training
    return *scan_forward(*given, plan, initial, marks), plan.every


def backward(
    dout: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
    states: Tensor,
    every: int,
    dz: Tensor | None = None,
    marks: Tensor | None = None,
    dinitial: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias. dz: memory for z's, like z, channel stride 1. dinitial: for the state's."""
    batch, channels, length = u.shape
    plan = backward_plan(batch, channels, length, A.shape[1], u.device, u.dtype == torch.float32)
    return scan_backward(dout, u, delta, A, B, C, D, z, delta_bias, softplus, states, every, plan, dz, marks, dinitial)


SCAN = Scan(forward, backward)


def scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
    return_last_state: bool,
    keep: bool,
    plan: ScanPlan,
    initial: Tensor | None = None,
    marks: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """out (batch, d_inner, length), channel stride 1; last state (batch, d_inner, d_state) float32 or None; with keep the states
    before every plan.every-th step (batch, steps, d_state, d_inner) float32."""
    batch, channels, length = u.shape
    states = A.shape[1]
    u, delta, z = channels_last(u), channels_last(delta), None if z is None else channels_last(z)
    B, C = by_token(B, plan.wide), by_token(C, plan.wide)
    groups = B.shape[1]
    out = torch.empty((batch, length, channels), dtype=u.dtype, device=u.device).transpose(1, 2)
    last = torch.empty((batch, channels, states), dtype=torch.float32, device=u.device) if return_last_state else None
    steps = -(-length // plan.every)
    checkpoint = torch.empty((batch, steps, states, channels), dtype=torch.float32, device=u.device) if keep else None
    if u.numel() == 0:
        return out, None if last is None else last.zero_(), checkpoint
    chunk, chunks = cut(length, plan.chunks, plan.every)
    added = sum_dt = None
    if chunks > 1:
        added = torch.empty((batch, chunks, states, channels), dtype=torch.float32, device=u.device)
        sum_dt = torch.empty((batch, chunks, channels), dtype=torch.float32, device=u.device)
    group = channels // groups
    common = dict(
        N=states, BLOCK_N=plan.block_n, BLOCK_D=plan.block_d, TILE=plan.tile, K=plan.every, CHUNKS=chunks > 1,
        SOFTPLUS=softplus, HAS_D=D is not None, HAS_BIAS=delta_bias is not None, HAS_MARKS=marks is not None,
        FULL=group % plan.block_d == 0 and length % plan.tile == 0, PAIRS=in_pairs(B, C, plan), num_warps=plan.warps, num_stages=1,
        **_limits(plan),
    )  # fmt: skip
    grid = (groups * -(-group // plan.block_d), chunks, batch)
    arguments = (
        u, delta, z, B, C, A, D, delta_bias, initial, marks, out, last, checkpoint, added, sum_dt,
        *((0, 0, 0) if initial is None else initial.stride()),
        u.stride(0), u.stride(2), delta.stride(0), delta.stride(2), *((0, 0) if z is None else (z.stride(0), z.stride(2))),
        out.stride(0), out.stride(2), *B.stride()[:3], *C.stride()[:3], A.stride(0), A.stride(1), 1, channels,
        length, channels, group, chunk, steps,
    )  # fmt: skip
    with on_device(u):
        if chunks > 1:
            selective_scan_forward_kernel[grid](
                *arguments, OUTPUT=False, HAS_Z=False, HAS_LAST=False, HAS_CHECKPOINT=False, HAS_INITIAL=False, **common
            )
        selective_scan_forward_kernel[grid](
            *arguments, OUTPUT=True, HAS_Z=z is not None, HAS_LAST=return_last_state, HAS_CHECKPOINT=keep,
            HAS_INITIAL=initial is not None, **common,
        )  # fmt: skip
    return out, last, checkpoint


def scan_backward(
    dout: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
    checkpoint: Tensor,
    every: int,
    plan: ScanPlan,
    dz: Tensor | None = None,
    marks: Tensor | None = None,
    dinitial: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias, each in the dtype and shape of its tensor; that of the initial state is
    written to dinitial."""
    batch, channels, length = u.shape
    states, device = A.shape[1], u.device
    u, delta, dout = channels_last(u), channels_last(delta), channels_last(dout)
    z = None if z is None else channels_last(z)
    shape_B, shape_C, dtype_B, dtype_C = B.shape, C.shape, B.dtype, C.dtype
    B, C = by_token(B, plan.wide), by_token(C, plan.wide)
    groups = B.shape[1]
    group = channels // groups
    du, ddelta = (torch.empty((batch, length, channels), dtype=x.dtype, device=device).transpose(1, 2) for x in (u, delta))
    if z is not None and dz is None:
        dz = torch.empty((batch, length, channels), dtype=z.dtype, device=device).transpose(1, 2)
    chunk, chunks = cut(length, plan.chunks, every)
    blocks = -(-group // plan.block_d)
    grid = (groups * blocks, chunks, batch)

    def partial(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float32, device=device) if u.numel() == 0 else torch.empty(
            shape, dtype=torch.float32, device=device
        )  # fmt: skip

    dA, dD, dbias = partial(batch, chunks, states, channels), partial(batch, chunks, channels), partial(batch, chunks, channels)
    dB, dC = (partial(blocks, batch, groups, length, states) for _ in range(2))
    if u.numel():
        added = sum_dt = None
        if chunks > 1:
            added, sum_dt = partial(batch, chunks, states, channels), partial(batch, chunks, channels)
        scratch = partial(grid[0] * chunks * batch, every // plan.tile, plan.block_n * plan.block_d)
        common = dict(
            N=states, BLOCK_N=plan.block_n, BLOCK_D=plan.block_d, SOFTPLUS=softplus, HAS_Z=z is not None,
            HAS_BIAS=delta_bias is not None, HAS_MARKS=marks is not None, PAIRS=in_pairs(B, C, plan), num_warps=plan.warps,
            num_stages=1, **_limits(plan),
            FULL=group % plan.block_d == 0 and length % every == 0,
        )  # fmt: skip
        z_strides = (0, 0) if z is None else (z.stride(0), z.stride(2))
        strides = (delta.stride(0), delta.stride(2), *z_strides, dout.stride(0), dout.stride(2))
        sizes = (length, channels, group, chunk)
        with on_device(u):
            if chunks > 1:
                selective_scan_reverse_kernel[grid](
                    delta, z, dout, C, A, delta_bias, marks, added, sum_dt,
                    *strides, *C.stride()[:3], A.stride(0), A.stride(1), 1, channels, *sizes,
                    TILE=2 if u.dtype == torch.float32 else 4, **common,
                )  # fmt: skip
            selective_scan_backward_kernel[grid](
                u, delta, z, dout, B, C, A, D, delta_bias, marks, checkpoint, added, sum_dt, scratch,
                du, ddelta, dz, dA, dD, dbias, dB, dC, dinitial,
                u.stride(0), u.stride(2), *strides, *B.stride()[:3], *C.stride()[:3], A.stride(0), A.stride(1), 1, channels,
                du.stride(0), du.stride(2), ddelta.stride(0), ddelta.stride(2),
                *((0, 0) if dz is None else (dz.stride(0), dz.stride(2))), *sizes, checkpoint.shape[1],
                TILE=plan.tile, K=every, CHUNKS=chunks > 1, HAS_D=D is not None, DOT=plan.dot,
                HAS_INITIAL=dinitial is not None,
                # one pass of tf32 is finer than what bfloat16 and float16 gradients keep
                PRECISION=_precision(u), **common,
            )  # fmt: skip
    return (
        du,
        ddelta,
        dA.sum((0, 1)).t().to(A.dtype),
        dB.sum(0).transpose(2, 3).to(dtype_B).view(shape_B),
        dC.sum(0).transpose(2, 3).to(dtype_C).view(shape_C),
        None if D is None else dD.sum((0, 1)).to(D.dtype),
        dz,
        None if delta_bias is None else dbias.sum((0, 1)).to(delta_bias.dtype),
    )


def _precision(u: Tensor) -> str:
    if torch.version.hip is not None:
        return "ieee"  # AMD's compiler has no tf32
    return "tf32x3" if u.dtype == torch.float32 else "tf32"


def channels_last(x: Tensor) -> Tensor:
    """(batch, d_inner, length) with channel stride 1; copies only what is laid out otherwise."""
    return x if x.stride(1) == 1 else x.transpose(1, 2).contiguous().transpose(1, 2)


def by_token(x: Tensor, wide: bool) -> Tensor:
    """B or C as (batch, ngroups, length, d_state) with state stride 1; a few percent of u's size, so a copy is cheap."""
    x = x.unsqueeze(1) if x.dim() == 3 else x
    x = x.transpose(2, 3)
    x = x.float() if wide else x
    return x if x.stride(3) == 1 else x.contiguous()


def in_pairs(B: Tensor, C: Tensor, plan: ScanPlan) -> bool:
    """May load_states read two bfloat16 states at once."""
    return plan.block_n == B.shape[3] and plan.block_d >= 32 * plan.warps and all(
        x.dtype == torch.bfloat16 and x.data_ptr() % 4 == 0 and all(s % 2 == 0 for s in x.stride()[:3]) for x in (B, C)
    )


def cut(length: int, chunks: int, every: int) -> tuple[int, int]:
    """(steps in a chunk, a multiple of every; number of chunks)."""
    chunk = -(-length // chunks)
    chunk = max(-(-chunk // every) * every, every)
    return chunk, max(-(-length // chunk), 1)


def _limits(plan: ScanPlan) -> dict[str, int]:
    return {} if plan.registers is None else {"maxnreg": plan.registers}

"""mamba_chunk_scan_combined on Triton kernels: launches, memory and autograd. The mathematics is in ssd_forward and ssd_backward."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.transforms import first_derivative_only
from anymamba.backends.triton.launch import has_float64, on_device, power_of_2, runs_here
from anymamba.backends.triton.ssd.ssd_backward import ssd_backward_kernel
from anymamba.backends.triton.ssd.ssd_backward_ends import ssd_exponents_backward_kernel, ssd_gate_backward_kernel
from anymamba.backends.triton.ssd.ssd_documents import number_documents
from anymamba.backends.triton.ssd.ssd_forward import ssd_output_kernel, ssd_steps_kernel, ssd_walk_kernel
from anymamba.backends.triton.ssd.ssd_plan import SsdPlan, backward_plan, forward_plan
from anymamba.language import _


def supports(call: Call) -> tuple[bool, str]:
    """Every option; heads of up to 128 channels, up to 256 states."""
    ok, reason = runs_here(call)
    if ok and (call.size("headdim") > 128 or call.size("d_state") > 256):
        return False, _("headdim is at most 128 and d_state at most 256")
    if ok and call.grad and "return_varlen_states" in call.features:
        return False, _("varlen states pass no gradient on here")
    return ok, reason


def variant(call: Call) -> str:
    """What the kernels are compiled for: the tile that holds a head and its states, and the parts of the plans that do not depend on how
    many sequences, tokens and heads there are to share out."""
    headdim, d_state, heads = call.size("headdim", 16), call.size("d_state", 24), call.size("heads_per_group", 2)
    sizes = (1, 16 if "short" in call.features else 4096, heads, heads, headdim, d_state, call.dtype == torch.float32, call.device)
    gated, documents = "z" in call.features, "seq_idx" in call.features
    ahead = forward_plan(*sizes, gated, documents)
    chunks = f"chunks {ahead.q}, {ahead.warps} warps, {ahead.stages} stages, parts {ahead.block_k}"
    words = [f"tile {_block(headdim)}x{_block(d_state)}", chunks]
    if call.grad:
        back = backward_plan(*sizes)
        words.append(f"backward chunks {back.q}, {back.warps} warps, {back.block_p} channels")
    words += [word for word in ("z", "seq_idx", "D_per_channel") if word in call.features]
    return ", ".join(words)


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
    state_dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """See anymamba.ops.mamba_chunk_scan_combined. x, z: (batch, length, nheads, headdim), any strides; chunk_size changes nothing."""
    limits = float(dt_limit[0]), float(dt_limit[1])
    # a value a head: the kernels read these without strides
    A, dt_bias = A.contiguous(), None if dt_bias is None else dt_bias.contiguous()
    out, final_states = _ChunkScan.apply(
        x, dt, A, B, C, D, z, dt_bias, initial_states, seq_idx, bool(dt_softplus), limits, bool(return_final_states)
    )
    outputs = [out]
    if return_final_states:
        outputs.append(final_states)
    if return_varlen_states:
        assert cu_seqlens is not None
        with torch.no_grad():
            states = _varlen_states(x, dt, A, B, dt_bias, initial_states, seq_idx, cu_seqlens, bool(dt_softplus), limits)
        outputs.append(states.to(C.dtype if state_dtype is None else state_dtype))
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


class _ChunkScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        dt_bias: Tensor | None,
        initial: Tensor | None,
        seq_idx: Tensor | None,
        softplus: bool,
        limits: tuple[float, float],
        return_final: bool,
    ) -> tuple[Tensor, Tensor | None]:
        plan = forward_plan(*_sizes(x, B), x.device, gated=z is not None, documents=seq_idx is not None)
        keep = z is not None and any(ctx.needs_input_grad)
        out, final, ungated = chunk_scan_forward(
            x, dt, A, B, C, D, z, dt_bias, initial, seq_idx, softplus, limits, return_final, keep, plan
        )
        ctx.save_for_backward(x, dt, A, B, C, D, z, dt_bias, initial, seq_idx, ungated)
        ctx.options = softplus, limits
        return out, final

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dout: Tensor, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, D, z, dt_bias, initial, seq_idx, ungated = ctx.saved_tensors
        softplus, limits = ctx.options
        plan = backward_plan(*_sizes(x, B), x.device)
        if D is not None and D.dim() == 2:
            plan = replace(plan, warps=8)  # one more tile in registers
        if z is not None and seq_idx is None and plan.q > 32 and B.shape[3] > 64:
            plan = replace(plan, warps=8)  # likewise
        gradients = chunk_scan_backward(
            dout, dfinal, x, dt, A, B, C, D, z, dt_bias, initial, seq_idx, ungated, softplus, limits, plan
        )
        return *gradients, None, None, None, None


def chunk_scan_forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial: Tensor | None,
    seq_idx: Tensor | None,
    softplus: bool,
    limits: tuple[float, float],
    return_final: bool,
    keep_ungated: bool,
    plan: SsdPlan,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """out (batch, length, nheads, headdim); the final states (batch, nheads, headdim, d_state) float32 and the output before the gate,
    where asked for."""
    batch, length, heads, headdim = x.shape
    groups, d_state = B.shape[2:]
    out = torch.empty((batch, length, heads, headdim), dtype=x.dtype, device=x.device)
    x, B, C = _of_one_dtype(x, B, C)
    documents = None if seq_idx is None else number_documents(seq_idx, plan.q)
    steps, sums = _steps(dt, A, dt_bias, seq_idx, softplus, limits, plan.q)
    states, final = _walk(x, None, B, steps, sums, documents, initial, return_final, False, plan)
    ungated = torch.empty_like(out) if keep_ungated else None
    blocks = -(-(heads // groups) // plan.heads)
    with on_device(x):
        ssd_output_kernel[(groups * blocks, states.shape[1], batch)](
            x, B, C, D, z, seq_idx, steps, sums, documents, states, out, ungated,
            *x.stride(), *B.stride(), *C.stride(), *_strides(z, 4), *_strides(seq_idx, 2), *_per_channel(D),
            length, steps.shape[2], heads, heads // groups, plan.heads,
            Q=plan.q, P=headdim, N=d_state, BLOCK_P=_block(headdim), BLOCK_N=_block(d_state), BLOCK_K=plan.block_k,
            HAS_D=D is not None, HAS_Z=z is not None, HAS_UNGATED=keep_ungated, HAS_SEQ=seq_idx is not None,
            PRECISION=_precision(x), num_warps=plan.warps, num_stages=plan.stages,
        )  # fmt: skip
    return out, final, ungated


def chunk_scan_backward(
    dout: Tensor,
    dfinal: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial: Tensor | None,
    seq_idx: Tensor | None,
    ungated: Tensor | None,
    softplus: bool,
    limits: tuple[float, float],
    plan: SsdPlan,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, dt, A, B, C, D, z, dt_bias and the initial states, each in the dtype and shape of its tensor."""
    batch, length, heads, headdim = x.shape
    groups, d_state = B.shape[2:]
    device = x.device
    dx = torch.empty(x.shape, dtype=x.dtype, device=device)
    dtype_B, dtype_C = B.dtype, C.dtype
    x, B, C = _of_one_dtype(x, B, C)
    dy, low, dz = dout.to(x.dtype), None, None
    if z is not None:
        dy, dz = torch.empty(x.shape, dtype=x.dtype, device=device), torch.empty(x.shape, dtype=z.dtype, device=device)
        low = torch.empty_like(dy) if x.dtype != torch.float32 else None
        block_p = _block(headdim)
        block_h = max(min(2048 // block_p, power_of_2(heads)), 1)
        with on_device(x):
            ssd_gate_backward_kernel[(length, -(-heads // block_h), batch)](
                dout, z, ungated, dy, low, dz, *dout.stride(), *z.stride(), length, heads,
                P=headdim, BLOCK_P=block_p, BLOCK_H=block_h, HAS_LOW=low is not None, num_warps=4, num_stages=1,
            )  # fmt: skip
    documents = None
    if seq_idx is not None:
        documents = number_documents(seq_idx, plan.q)
        padding = (seq_idx < 0)[:, :, None, None]
        dy, low = dy.masked_fill(padding, 0), None if low is None else low.masked_fill(padding, 0)
    steps, sums = _steps(dt, A, dt_bias, seq_idx, softplus, limits, plan.q)
    states, _ = _walk(x, None, B, steps, sums, documents, initial, False, False, plan)
    dstates, dinitial = _walk(dy, low, C, steps, sums, documents, dfinal, initial is not None, True, plan)
    chunks, padded, per_group = states.shape[1], steps.shape[2], heads // groups
    blocks = -(-per_group // plan.heads)

    def partial(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=device)

    ddt = torch.empty((batch, length, heads), dtype=dt.dtype, device=device)
    dbias = None if dt_bias is None else partial(batch, chunks, heads)
    dA = partial(batch, chunks, heads)
    parts = -(-headdim // plan.block_p)
    dB, dC = (partial(2, blocks, batch, length, groups, d_state) for _ in range(2))
    of_row = partial(2, batch, heads * parts, padded)
    of_column, into_state, own = (partial(batch, heads * parts, padded) for _ in range(3))
    own_CB, carried = partial(batch, groups, padded), partial(batch, chunks, heads * parts)
    wide_D = D is not None and D.dim() == 2
    dD = None if D is None else partial(batch, chunks, *D.shape)
    # one kernel with and without D: without, the compiler arranges it so that registers spill
    given_D = torch.zeros(heads, device=device) if D is None else D
    with on_device(x):
        ssd_backward_kernel[(groups * blocks * 3, chunks, batch)](
            x, dy, low, B, C, given_D, steps, sums, documents, states, dstates,
            dx, dB, dC, of_row, of_column, into_state, carried, own, own_CB, dD,
            *x.stride(), *dy.stride(), *B.stride(), *C.stride(), *_per_channel(given_D),
            dB[0].numel(), of_row[0].numel(), length, padded, heads, per_group, plan.heads, 0,
            Q=plan.q, P=headdim, N=d_state, BLOCK_P=plan.block_p, BLOCK_N=_block(d_state), BLOCK_K=plan.block_k,
            HAS_LOW=low is not None, WIDE_D=wide_D, HAS_SEQ=seq_idx is not None, PRECISION=_precision(x),
            num_warps=plan.warps, num_stages=plan.stages, **_limits(plan),
        )  # fmt: skip
        ssd_exponents_backward_kernel[(chunks, -(-heads // 16), batch)](
            dt, A, dt_bias, seq_idx, steps, of_row, of_column, into_state, carried, own, own_CB,
            ddt, dbias, dA, None if wide_D else dD,
            *dt.stride(), *_strides(seq_idx, 2), of_row[0].numel(), length, heads, per_group, padded, *limits,
            Q=plan.q, BLOCK_H=16, PARTS=parts, SOFTPLUS=softplus, LIMIT=_limited(softplus, limits),
            HAS_BIAS=dt_bias is not None, HAS_SEQ=seq_idx is not None, HAS_D=D is not None and not wide_D,
            FLOAT64=x.dtype == torch.float32 and has_float64(device), num_warps=4, num_stages=1,
        )  # fmt: skip
    return (
        dx,
        ddt,
        dA.sum((0, 1)).to(A.dtype),
        dB.sum((0, 1)).to(dtype_B),
        dC.sum((0, 1)).to(dtype_C),
        None if D is None or dD is None else dD.sum((0, 1)).to(D.dtype),
        dz,
        None if dt_bias is None or dbias is None else dbias.sum((0, 1)).to(dt_bias.dtype),
        None if initial is None or dinitial is None else dinitial.to(initial.dtype),
    )


def _steps(
    dt: Tensor,
    A: Tensor,
    dt_bias: Tensor | None,
    seq_idx: Tensor | None,
    softplus: bool,
    limits: tuple[float, float],
    q: int,
) -> tuple[Tensor, Tensor]:
    """Step sizes and their running sums: (batch, nheads, length rounded up to chunks) float32."""
    batch, length, heads = dt.shape
    chunks = -(-length // q)
    steps, sums = (torch.empty((batch, heads, chunks * q), dtype=torch.float32, device=dt.device) for _ in range(2))
    with on_device(dt):
        ssd_steps_kernel[(chunks, -(-heads // 16), batch)](
            dt, A, dt_bias, seq_idx, steps, sums, *dt.stride(), *_strides(seq_idx, 2), length, heads, chunks * q, *limits,
            Q=q, BLOCK_H=16, SOFTPLUS=softplus, LIMIT=_limited(softplus, limits), HAS_BIAS=dt_bias is not None,
            HAS_SEQ=seq_idx is not None, FLOAT64=has_float64(dt.device), num_warps=4, num_stages=1,
        )  # fmt: skip
    return steps, sums


def _walk(
    x: Tensor,
    low: Tensor | None,
    B: Tensor,
    steps: Tensor,
    sums: Tensor,
    documents: Tensor | None,
    first: Tensor | None,
    return_last: bool,
    reverse: bool,
    plan: SsdPlan,
) -> tuple[Tensor, Tensor | None]:
    """The state before each chunk (batch, chunks, nheads, headdim, d_state), in the dtype of x, and the one after all, float32."""
    batch, length, heads, headdim = x.shape
    groups, d_state = B.shape[2:]
    chunks = steps.shape[2] // plan.q
    states = torch.empty((batch, chunks, heads, headdim, d_state), dtype=x.dtype, device=x.device)
    last = torch.empty((batch, heads, headdim, d_state), dtype=torch.float32, device=x.device) if return_last else None
    grid = (-(-headdim // plan.walk_p) * -(-d_state // plan.walk_n), heads, batch)
    with on_device(x):
        ssd_walk_kernel[grid](
            x, low, B, steps, sums, documents, None if first is None else first.contiguous(), states, last,
            *x.stride(), *B.stride(), length, steps.shape[2], heads, heads // groups, chunks,
            Q=plan.q, P=headdim, N=d_state, BLOCK_P=plan.walk_p, BLOCK_N=plan.walk_n, REVERSE=reverse,
            HAS_LOW=low is not None, HAS_FIRST=first is not None, HAS_SEQ=documents is not None, HAS_LAST=return_last,
            PRECISION=_precision(x), num_warps=plan.walk_warps, num_stages=plan.walk_stages, **_limits(plan),
        )  # fmt: skip
    return states, last


def _varlen_states(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    dt_bias: Tensor | None,
    initial: Tensor | None,
    seq_idx: Tensor | None,
    cu_seqlens: Tensor,
    softplus: bool,
    limits: tuple[float, float],
) -> Tensor:
    """(sequences, nheads, headdim, d_state) float32: what each sequence leaves behind on its own."""
    heads, headdim, d_state = x.shape[2], x.shape[3], B.shape[3]
    borders = cu_seqlens.tolist()
    states = x.new_zeros((len(borders) - 1, heads, headdim, d_state), dtype=torch.float32)
    for index, (begin, end) in enumerate(zip(borders[:-1], borders[1:])):
        if begin == end:
            continue
        part = slice(begin, end)
        idx = None if seq_idx is None else seq_idx[:, part]
        plan = forward_plan(*_sizes(x[:, part], B), x.device)
        documents = None if idx is None else number_documents(idx, plan.q)
        steps, sums = _steps(dt[:, part], A, dt_bias, idx, softplus, limits, plan.q)
        first = initial if begin == 0 else None
        last = _walk(x[:, part], None, B[:, part], steps, sums, documents, first, True, False, plan)[1]
        states[index] = last[0] if last is not None else 0
    return states


def _limits(plan: SsdPlan) -> dict[str, int]:
    return {} if plan.registers is None else {"maxnreg": plan.registers}


def _sizes(x: Tensor, B: Tensor) -> tuple[int, int, int, int, int, int, bool]:
    batch, length, heads, headdim = x.shape
    return batch, length, heads, heads // B.shape[2], headdim, B.shape[3], torch.float32 in (x.dtype, B.dtype)


def _of_one_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Operands of one product have one dtype: the widest of theirs."""
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors))
    return tuple(t.to(dtype) for t in tensors)


def _block(size: int) -> int:
    return max(power_of_2(size), 16)


def _limited(softplus: bool, limits: tuple[float, float]) -> bool:
    return not softplus or limits != (0.0, math.inf)


def _precision(x: Tensor) -> str:
    """Of products of float32 operands; bfloat16 and float16 ones are exact."""
    return "ieee" if x.device.type != "cuda" or torch.version.hip is not None else "tf32x3"


def _per_channel(D: Tensor | None) -> tuple[int, int]:
    """Strides of D along nheads and headdim."""
    return (0, 0) if D is None else (D.stride(0), D.stride(1) if D.dim() == 2 else 0)


def _strides(x: Tensor | None, dimensions: int) -> tuple[int, ...]:
    return (0,) * dimensions if x is None else x.stride()

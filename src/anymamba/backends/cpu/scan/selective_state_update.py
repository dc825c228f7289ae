"""selective_state_update on processors: one kernel for Mamba-1 and Mamba-2, with as little Python around it as there can be."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.cpu.jit.compile import Program
from anymamba.backends.cpu.jit.emit import Kernel, Pointer, Value, dtype_name
from anymamba.backends.cpu.jit.target import host
from anymamba.backends.cpu.jit.vecmath import LOG2E, exp2, silu, softplus
from anymamba.language import _

_WORTH_THREADS = 1 << 14
"""State values from which on more than one core is faster."""


def supports(call: Call) -> tuple[bool, str]:
    """Every option, in float32, bfloat16 and float16."""
    if call.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False, _("no kernel for {dtype}").format(dtype=dtype_name(call.dtype))
    if call.dtype is torch.float16 and not host().f16:
        return False, _("this processor does not convert float16")
    return True, _("compiled for this processor")


def selective_state_update(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
    dt_bias: Tensor | None = None, dt_softplus: bool = False, state_batch_indices: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """See anymamba.ops.selective_state_update."""
    if state.stride(-1) != 1:
        dense = state.contiguous()
        out = selective_state_update(dense, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices)
        state.copy_(dense)
        return out
    batch, N = x.shape[0], state.shape[-1]
    B, C = _adjacent(B), _adjacent(C)
    groups = max(_groups(B), _groups(C))
    B, C = _with_groups(B, groups), _with_groups(C, groups)
    with_heads = x.dim() == 3
    tied = with_heads and A.stride()[1:] == (0, 0) and dt.stride(2) == 0 and (dt_bias is None or dt_bias.stride(1) == 0)
    x, z, A, D, dt_bias = _adjacent(x), _adjacent(z), A.float(), _float(D), _float(dt_bias)
    D_tied = with_heads and D is not None and D.stride(-1) == 0
    D = D if D_tied else _adjacent(D)
    if not tied:
        A, dt, dt_bias = _adjacent(A), _adjacent(dt), _adjacent(dt_bias)
    out = torch.empty(x.shape, dtype=x.dtype)
    rows = state_batch_indices if state_batch_indices is None else state_batch_indices.contiguous()

    # without heads, the channels of a group are treated as those of a head
    heads, headdim = (x.shape[1], x.shape[2]) if with_heads else (groups, x.shape[1] // groups)

    def head_stride(tensor: Tensor | None, axis: int) -> int:
        if tensor is None:
            return 0
        return tensor.stride(axis) if with_heads else headdim * tensor.stride(axis)

    workers = torch.get_num_threads() if batch * heads * headdim * N >= _WORTH_THREADS else 1
    program, width = _program(
        state.dtype, x.dtype, dt.dtype, B.dtype, C.dtype, None if z is None else z.dtype, None if rows is None else rows.dtype,
        N, D is not None, D_tied, dt_bias is not None, dt_softplus, tied,
    )  # fmt: skip
    blocks = -(-headdim // width)
    runs = min(blocks, max(1, -(-workers // (batch * heads))))
    program.launch(batch * heads * runs, workers, (
        heads, headdim, runs, -(-blocks // runs), heads // groups,
        state.data_ptr(), state.stride(0), head_stride(state, 1), state.stride(-2),
        x.data_ptr(), x.stride(0), head_stride(x, 1), dt.data_ptr(), dt.stride(0), head_stride(dt, 1),
        A.data_ptr(), head_stride(A, 0), A.stride(-2), B.data_ptr(), B.stride(0), B.stride(-2), C.data_ptr(), C.stride(0), C.stride(-2),
        _address(D), head_stride(D, 0), _address(dt_bias), head_stride(dt_bias, 0),
        _address(z), 0 if z is None else z.stride(0), head_stride(z, 1), _address(rows), out.data_ptr(),
    ))  # fmt: skip
    return out


_ARGUMENTS = [
    "heads", "headdim", "runs", "run_blocks", "heads_per_group",
    "state", "state_batch", "state_head", "state_channel", "x", "x_batch", "x_head", "dt", "dt_batch", "dt_head",
    "A", "A_head", "A_channel", "B", "B_batch", "B_group", "C", "C_batch", "C_group",
    "D", "D_head", "dt_bias", "dt_bias_head", "z", "z_batch", "z_head", "rows", "out",
]  # fmt: skip
"""The order in which ``launch`` passes them."""


def _adjacent(x: Any) -> Any:
    """With stride 1 on the last axis."""
    return x if x is None or x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _groups(m: Tensor) -> int:
    return m.shape[1] if m.dim() == 3 else 1


def _with_groups(m: Tensor, groups: int) -> Tensor:
    """B or C with as many groups as the other."""
    if _groups(m) == groups:
        return m
    return m.unsqueeze(1).expand(-1, groups, -1) if m.dim() == 2 else m.repeat_interleave(groups // m.shape[1], dim=1)


def _float(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


@dataclass(frozen=True)
class _Options:
    """tied: A, dt and dt_bias are one number a head. D_tied: so is D. rows: dtype of state_batch_indices."""

    state: torch.dtype
    x: torch.dtype
    dt: torch.dtype
    B: torch.dtype
    C: torch.dtype
    z: torch.dtype | None
    rows: torch.dtype | None
    N: int
    D: bool
    D_tied: bool
    dt_bias: bool
    dt_softplus: bool
    tied: bool


@functools.cache
def _program(*options: Any) -> tuple[Program, int]:
    program = Program("selective_state_update", step, _Options(*options))
    if program.code().names != _ARGUMENTS:
        raise AssertionError(f"step asks for {program.code().names}")
    return program, host().width


def step(k: Kernel, o: _Options) -> None:
    """Lanes are states: a vector holds neighbouring states of one channel, ``width`` channels are advanced together, and their
    sums over the states are taken by one transposing reduction. A task is a run of such blocks of one head of one sequence."""
    w = k.width
    heads, headdim, runs, run_blocks, heads_per_group = (k.size(name) for name in _ARGUMENTS[:5])
    batch, rest = k.task / (heads * runs), k.task % (heads * runs)
    head, run = rest / runs, rest % runs
    group = head / heads_per_group

    def tensor(name: str, dtype: torch.dtype | None, **axes: Value) -> Pointer:
        pointer, strides = k.pointer(name, dtype_name(dtype or torch.float32)), [k.size(f"{name}_{axis}") for axis in axes]
        for index, stride in zip(axes.values(), strides):
            pointer = pointer.at(index * stride)
        return pointer

    all_states, strides = k.pointer("state", dtype_name(o.state)), [k.size(f"state_{axis}") for axis in ("batch", "head", "channel")]
    x, dt = tensor("x", o.x, batch=batch, head=head), tensor("dt", o.dt, batch=batch, head=head)
    A, A_channel = tensor("A", None, head=head), k.size("A_channel")
    B, C = tensor("B", o.B, batch=batch, group=group), tensor("C", o.C, batch=batch, group=group)
    D, bias = tensor("D", None, head=head), tensor("dt_bias", None, head=head)
    z = tensor("z", o.z, batch=batch, head=head)
    rows = k.pointer("rows", dtype_name(o.rows or torch.int64))
    out = k.pointer("out", dtype_name(o.x)).at((batch * heads + head) * headdim)
    row = rows.scalar(batch) if o.rows else batch
    state = all_states.at(k.maximum(row, 0) * strides[0] + head * strides[1])
    dt_rows, dtx_rows = k.scratch(w), k.scratch(w)

    first = run * run_blocks * w
    past = k.minimum(headdim, first + run_blocks * w)
    with k.if_else(row >= 0) as (sequence, padding):
        with padding, k.loop(first, past, w) as p:
            out.store(p, 0.0, past - p)
        with sequence, k.loop(first, past, w) as p:
            left = past - p

            def channels(pointer: Pointer, one: bool, p: Value = p, left: Value = left) -> Value:
                return pointer.broadcast() if one else pointer.load(p, left)

            size = channels(dt, o.tied)
            if o.dt_bias:
                size = size + channels(bias, o.tied)
            if o.dt_softplus:
                size = softplus(size)
            token = x.load(p, left)
            dt_rows.store(0, size * LOG2E)
            dtx_rows.store(0, size * token)
            tied_decay = exp2(size * (A.broadcast() * LOG2E)) if o.tied else None
            total = _advance(k, o, p, left, state, strides[2], A, A_channel, B, C, dt_rows, dtx_rows, tied_decay)
            if o.D:
                total = total + channels(D, o.D_tied) * token
            if o.z:
                total = total * silu(z.load(p, left))
            out.store(p, total, left)


def _advance(
    k: Kernel, o: _Options, p: Value, left: Value, state: Pointer, state_channel: Value, A: Pointer, A_channel: Value,
    B: Pointer, C: Pointer, dt: Pointer, dtx: Pointer, tied_decay: Value | None,
) -> Value:  # fmt: skip
    """Advances ``width`` channels from p on, ``left`` of them real, and returns the sums over n of C state, one a lane."""
    w = k.width
    sums = [k.variable(0.0) for _ in range(w)]

    def states(n: Value | int, count: Value | None, channels: range) -> None:
        b, c = B.load(n, count), C.load(n, count)
        for i in channels:
            here = (p + i) * state_channel + n
            decay = tied_decay or exp2(dt.broadcast(i) * A.load((p + i) * A_channel + n, count))
            new = decay * state.load(here, count) + dtx.broadcast(i) * b
            state.store(here, new, count)
            sums[i].add(new * c)

    def walk(channels: range) -> None:
        whole = o.N // w * w
        if whole == w:
            states(0, None, channels)
        elif whole:
            with k.loop(0, whole, w) as n:
                states(n, None, channels)
        if whole < o.N:
            states(whole, k.integer(o.N - whole), channels)

    with k.if_else(left >= w) as (full, part):
        with full:
            walk(range(w))
        with part:
            for i in range(w):
                with k.if_(left > i):
                    walk(range(i, i + 1))
    return k.sums([total.value for total in sums])

"""Mamba-2's scan on the CPU: dispatch to the kernels of ssd_forward.py and ssd_backward.py, and its gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.cpu.jit.compile import Program
from anymamba.backends.cpu.jit.emit import dtype_name
from anymamba.backends.cpu.jit.target import host
from anymamba.backends.cpu.ssd import ssd_backward, ssd_forward
from anymamba.backends.cpu.ssd.ssd_tiles import CHUNK, Decays
from anymamba.backends.transforms import first_derivative_only
from anymamba.language import _

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def supports(call: Call) -> tuple[bool, str]:
    if call.dtype not in DTYPES:
        return False, _("no kernels for {dtype}").format(dtype=call.dtype)
    return True, _("compiled kernels, every option")


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
    """See anymamba.ops.mamba_chunk_scan_combined. x, z, B, C are read where they lie if their last axis is contiguous."""
    steps = dt.float() if dt_bias is None else dt.float() + dt_bias.float()
    if dt_softplus:
        steps = F.softplus(steps)
    if not dt_softplus or tuple(dt_limit) != (0.0, float("inf")):
        steps = steps.clamp(*dt_limit)
    carry = padding = None
    if seq_idx is not None:
        # to the scan, a padding token is one with a step of zero: it changes no state
        padding = seq_idx < 0
        steps = steps.masked_fill(padding[:, :, None], 0.0)
        carry = carries(seq_idx, padding)
    dtype, activations = x.dtype, (x, B, C) if z is None else (x, B, C, z)
    if any(tensor.dtype != dtype for tensor in activations):
        x, B, C, z = x.float(), B.float(), C.float(), None if z is None else z.float()
    arguments = (x, steps.mT.contiguous(), A.float().contiguous(), B, C, D, z, initial_states, carry)
    out, final_states = Scan.apply(*arguments, None, return_final_states)
    if padding is not None:
        out = out.masked_fill(padding[:, :, None, None], 0.0)
    outputs = [out.to(dtype)]
    if return_final_states:
        outputs.append(final_states)
    if return_varlen_states:
        assert cu_seqlens is not None
        with torch.no_grad():
            outputs.append(_varlen_states(arguments, cu_seqlens).to(state_dtype or C.dtype))
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def carries(seq_idx: Tensor, padding: Tensor) -> Tensor:
    """(batch, length) float32: 0 where a token's document is not that of the last token that is no padding, else 1."""
    positions = torch.arange(seq_idx.shape[1]).expand_as(seq_idx)
    last_real = torch.where(padding, -1, positions).cummax(dim=1).values
    before = F.pad(last_real[:, :-1], (1, 0), value=-1)
    fresh = ~padding & (before >= 0) & (seq_idx != seq_idx.gather(1, before.clamp(min=0)))
    return (~fresh).float()


def _varlen_states(arguments: tuple[Any, ...], cu_seqlens: Tensor) -> Tensor:
    """The state that each of the packed sequences leaves behind on its own: (sequences, nheads, headdim, d_state) float32."""
    x, steps, A, B, C, D, z, initial_states, carry = arguments
    states = []
    borders = cu_seqlens.tolist()
    for first, end in zip(borders, borders[1:]):
        if first == end:
            states.append(x.new_zeros(1, *x.shape[2:], B.shape[3], dtype=torch.float32))
            continue
        part = slice(first, end)
        start = initial_states if first == 0 else None
        # a sequence that starts inside a document has no state to drop at its first token
        own = None if carry is None else F.pad(carry[:, first + 1 : end], (1, 0), value=1.0)
        inputs = x[:, part], steps[:, :, part].contiguous(), A, B[:, part], C[:, part], D, None, start, own
        states.append(Scan.apply(*inputs, None, True)[1])
    return torch.cat(states) if states else x.new_zeros(0, *x.shape[2:], B.shape[3], dtype=torch.float32)


@functools.cache
def _program(name: str, build: Callable[..., None], *options: Any) -> Program:
    return Program(name, build, *options)


def _room(floats: int) -> int:
    """Rounded up to a power of 4, so that few variants of a kernel are compiled."""
    room = 2**14
    while room < floats:
        room *= 4
    return room


def _padded(size: int, to: int) -> int:
    return -(-size // to) * to


class _Problem:
    """The arguments that all kernels of one call share. x (batch, length, nheads, headdim), steps (batch, nheads, length) float32,
    B, C (batch, length, groups, d_state), D (nheads,) or (nheads, headdim), initial_states (batch, nheads, headdim, d_state), exponents
    like steps, or None: those are steps * A."""

    def __init__(
        self, x: Tensor, steps: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, carry: Tensor | None,
        exponents: Tensor | None,
    ):  # fmt: skip
        batch, length, nheads, headdim = x.shape
        groups, d_state = B.shape[2:]
        width = host().width
        self.batch, self.length, self.nheads, self.groups, self.d_state = batch, length, nheads, groups, d_state
        self.rows, self.columns, self.chunks = _padded(d_state, width), _padded(headdim, width), -(-length // CHUNK)
        self.square = self.rows * self.columns
        self.dtype, self.gated, self.apart = dtype_name(x.dtype), z is not None, exponents is not None
        shape = batch * groups * self.chunks * CHUNK
        self.arguments: dict[str, Any] = {
            "packed_B": x.new_empty(shape * self.rows, dtype=torch.float32),
            "packed_C": x.new_empty(shape * self.rows, dtype=torch.float32),
            "scores": x.new_empty(shape * CHUNK, dtype=torch.float32),
            "length": length, "groups": groups, "chunks": self.chunks, "rows": self.rows,
        }  # fmt: skip
        strides = {"d_state": d_state}
        for name, tensor in (("B", B), ("C", C)):
            strides.update(zip((f"{name}_batch", f"{name}_token", f"{name}_group"), tensor.stride()))
        room = _room(self.rows * CHUNK)
        prepare = _program("ssd_prepare", ssd_forward.prepare, self.dtype, room)
        prepare.run(batch * groups * self.chunks, B=B, C=C, **strides, **self.arguments)
        skip = x.new_zeros(nheads, self.columns, dtype=torch.float32)
        if D is not None:
            skip[:, :headdim] = D.view(nheads, -1)
        carry = x.new_ones(batch, length, dtype=torch.float32) if carry is None else carry
        self.arguments.update(
            x=x, dt=steps, A=A, D=skip, carry=carry,
            nheads=nheads, headdim=headdim, columns=self.columns,
        )  # fmt: skip
        for name, lines in (("x", x), ("z", z)):
            if lines is not None:
                self.arguments.update(zip((f"{name}_batch", f"{name}_token", f"{name}_head"), lines.stride()))
        self.arguments["z"] = z
        if exponents is not None:
            self.arguments["exponents"] = exponents

    def states(self, states: Tensor | None) -> Tensor | None:
        """(batch, nheads, headdim, d_state) to (batch, nheads, columns, rows) float32, zeros behind."""
        if states is None:
            return None
        padding = 0, self.rows - states.shape[3], 0, self.columns - states.shape[2]
        return (F.pad(states.float(), padding) if any(padding) else states.float()).contiguous()

    def run_forward(
        self, out: Tensor, initial: Tensor | None, final: Tensor | None, saved_states: Tensor | None, ungated: Tensor | None
    ) -> None:
        room = _room(Decays.SCRATCH + 3 * self.columns * CHUNK + self.square)
        flags = self.apart, self.gated, initial is not None, final is not None, saved_states is not None
        program = _program("ssd_forward", ssd_forward.forward, self.dtype, *flags, room)
        states: dict[str, Any] = {"initial_states": initial, "final_states": final, "saved_states": saved_states, "ungated": ungated}
        program.run(self.batch * self.nheads, out=out, **states, **self.arguments)

    def run_backward(self, dfinal: Tensor | None, initial: Tensor | None, **tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        """Fills tensors; returns dB, dC."""
        tiles = 6 * self.columns + self.rows + CHUNK + 4
        room = _room(Decays.SCRATCH + tiles * CHUNK + self.square * (ssd_forward.SEGMENT + 3))
        blocks = self._blocks()
        shape = self.batch * self.groups * blocks * self.chunks * CHUNK
        x = self.arguments["x"]
        sizes = {"parts_B": self.rows, "parts_C": self.rows, "parts_K": CHUNK}
        parts = {name: x.new_empty(shape * size, dtype=torch.float32) for name, size in sizes.items()}
        flags = self.apart, self.gated, initial is not None, dfinal is not None
        arguments: dict[str, Any] = tensors  # type: ignore[assignment]
        program = _program("ssd_backward", ssd_backward.backward, self.dtype, *flags, room)
        program.run(
            self.batch * self.groups * blocks, initial_states=initial, dfinal=dfinal, blocks=blocks,
            **parts, **self.arguments, **arguments,
        )  # fmt: skip
        dB, dC = (x.new_empty(self.batch, self.length, self.groups, self.d_state) for _ in range(2))
        collect = _program("ssd_collect", ssd_backward.collect, self.dtype, _room((2 * self.rows + CHUNK) * CHUNK))
        collect.run(
            self.batch * self.groups * self.chunks, dB=dB, dC=dC, blocks=blocks, d_state=self.d_state, **parts, **self.arguments
        )
        return dB, dC

    def _blocks(self) -> int:
        """Blocks of heads of a group whose parts of dB and dC are summed apart: enough tasks for the cores, little memory. The same
        number, and so the same rounding, for any number of threads up to four."""
        threads = torch.get_num_threads()
        tasks = 8 if threads <= 4 else 4 * threads
        of_group = self.nheads // self.groups
        of_block = -(-of_group // min(of_group, -(-tasks // (self.batch * self.groups))))
        return -(-of_group // of_block)


def _last_contiguous(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


class Scan(torch.autograd.Function):
    """exponents (batch, nheads, length): logarithms of the decays, for recurrences where they are not steps * A (Mamba-3); steps then
    weigh the inputs alone, and A gets no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, steps: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
        initial_states: Tensor | None, carry: Tensor | None, exponents: Tensor | None, return_final_states: bool,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        ctx.set_materialize_grads(False)
        x, B, C = (_last_contiguous(tensor) for tensor in (x, B, C))
        z = None if z is None else _last_contiguous(z)
        problem = _Problem(x, steps, A, B, C, D, z, carry, exponents)
        initial = problem.states(initial_states)
        ungated: Tensor | None
        shape = problem.batch, problem.nheads, problem.columns, problem.rows
        out = x.new_empty(x.shape)
        final = x.new_empty(shape, dtype=torch.float32) if return_final_states else None
        saved_states, ungated = None, None
        if any(ctx.needs_input_grad):
            segments = (problem.chunks - 1) // ssd_forward.SEGMENT
            saved_states = x.new_empty(*shape[:2], segments, *shape[2:], dtype=torch.float32)
            ungated = None if z is None else x.new_empty(x.shape)
            ctx.save_for_backward(x, steps, A, B, C, D, z, initial_states, carry, exponents, saved_states, ungated)
        problem.run_forward(out, initial, final, saved_states, ungated)
        if final is None or final.shape[2:] == (x.shape[3], B.shape[3]):
            return out, final
        return out, final[:, :, : x.shape[3], : B.shape[3]].contiguous()

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dout: Tensor | None, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
        x, steps, A, B, C, D, z, initial_states, carry, exponents, saved_states, ungated = ctx.saved_tensors
        problem = _Problem(x, steps, A, B, C, D, z, carry, exponents)
        initial = problem.states(initial_states)
        dout = x.new_zeros(x.shape) if dout is None else dout.contiguous()
        dx, dz = x.new_empty(x.shape), None if z is None else x.new_empty(x.shape)
        dsteps, dA = torch.empty_like(steps), steps.new_empty(steps.shape[:2])
        dD = steps.new_empty(*steps.shape[:2], problem.columns)
        dinitial = None if initial is None else torch.empty_like(initial)
        of_exponents = {} if exponents is None else {"dexponents": torch.empty_like(exponents)}
        dB, dC = problem.run_backward(
            problem.states(dfinal), initial, saved_states=saved_states, ungated=ungated, dout=dout, dx=dx, dz=dz, ddt=dsteps, dA=dA,
            dD=dD, dinitial=dinitial, **of_exponents,
        )  # fmt: skip
        dskip = None
        if D is not None:
            dskip = dD.sum(0)[:, : x.shape[3]]
            dskip = (dskip.sum(1) if D.dim() == 1 else dskip).to(D.dtype)
        if dinitial is not None:
            dinitial = dinitial[:, :, : x.shape[3], : B.shape[3]].to(initial_states.dtype)
        of_A = dA.sum(0) if exponents is None else None
        return dx, dsteps, of_A, dB, dC, dskip, dz, dinitial, None, of_exponents.get("dexponents"), None

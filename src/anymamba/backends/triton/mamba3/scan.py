"""mamba3_siso and mamba3_mimo on Triton kernels: launches, memory and autograd. Their mathematics: forward, backward."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import MANY_HEADS, Call
from anymamba.backends.transforms import first_derivative_only
from anymamba.backends.triton.launch import has_float64, on_device, power_of_2, runs_here
from anymamba.backends.triton.mamba3.backward import mamba3_keys_backward_kernel, mamba3_queries_backward_kernel
from anymamba.backends.triton.mamba3.backward_walks import mamba3_angles_backward_kernel, mamba3_dstate_kernel
from anymamba.backends.triton.mamba3.forward import mamba3_walk_kernel
from anymamba.backends.triton.mamba3.plan import Mamba3Plan, backward_plan, forward_plan, walks_of
from anymamba.backends.triton.mamba3.rotation import mamba3_rotate_kernel, mamba3_turns_kernel
from anymamba.language import _


def supports(call: Call) -> tuple[bool, str]:
    """Every option; heads of up to 128 channels, up to 128 states, ranks of up to 8."""
    ok, reason = runs_here(call)
    if ok and (call.size("headdim") > 128 or call.size("d_state") > 128 or call.size("rank", 1) > 8):
        return False, _("headdim is at most 128, d_state at most 128 and the rank at most 8")
    if ok and call.grad and call.dtype == torch.float32 and call.size("headdim") * call.size("d_state") > 64 * 64:
        return False, _("a float32 head of so many states does not fit in registers backward")
    return ok, reason


def variant(call: Call) -> str:
    """What the kernels are compiled for: the tile that holds a head and its states, rows and warps of the plans."""
    rank, headdim, d_state = call.size("rank", 1), call.size("headdim", 16), call.size("d_state", 16)
    wide = call.dtype == torch.float32
    few, last = "many_heads" not in call.features, bool({"return_final_states", "return_state"} & call.features)
    ahead = forward_plan(rank, headdim, d_state, wide, few, last, call.device)
    words = [f"tile {ahead.block_p}x{ahead.block_n}, rank {rank}, rows {ahead.rows}, {ahead.warps} warps"]
    if call.grad:
        back = backward_plan(rank, headdim, d_state, wide, call.device)
        walks = walks_of(back, few, wide, "Input_States" in call.features, call.device)
        words.append(f"backward tile {back.block_p}x{back.block_n}, rows {back.rows}, {back.warps} warps")
        words.append(f"walks {walks.block_p}x{walks.block_n}, {walks.warps} warps")
    options = "D", "Z", "MIMO_Out", "cu_seqlens", "Input_States", "return_final_states", "return_state"
    words += [word for word in options if word in call.features]
    return ", ".join(words)


def mamba3_siso(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ADT: Tensor,
    DT: Tensor,
    Trap: Tensor,
    Q_bias: Tensor,
    K_bias: Tensor,
    Angles: Tensor,
    D: Tensor | None = None,
    Z: Tensor | None = None,
    angle_state: Tensor | None = None,
    ssm_state: Tensor | None = None,
    k_state: Tensor | None = None,
    v_state: Tensor | None = None,
    chunk_size: int = 64,
    return_final_states: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """See anymamba.ops.mamba3_siso. V, Z: (batch, length, nheads, headdim), any strides. chunk_size does not change the result."""
    options = _Options(True, bool(return_final_states), V.dtype)
    states = angle_state, ssm_state, k_state, v_state
    biases = Q_bias.unsqueeze(1), K_bias.unsqueeze(1)
    out, angle, ssm, key, value = _Scan.apply(
        Q.unsqueeze(2), K.unsqueeze(2), V, ADT, DT, Trap, *biases, Angles, None, None, None, D, Z, *states, cu_seqlens, options
    )
    out = out.squeeze(2)
    return (out, angle, ssm, key.squeeze(1), value) if return_final_states else out


def mamba3_mimo(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ADT: Tensor,
    DT: Tensor,
    Trap: Tensor,
    Q_bias: Tensor,
    K_bias: Tensor,
    MIMO_V: Tensor,
    MIMO_Z: Tensor | None,
    MIMO_Out: Tensor | None,
    Angles: Tensor,
    D: Tensor | None,
    Z: Tensor | None,
    chunk_size: int,
    rotary_dim_divisor: int,
    dtype: torch.dtype | None,
    return_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """See anymamba.ops.mamba3_mimo. V, Z: (batch, length, nheads, headdim), any strides. chunk_size does not change the result."""
    options = _Options(False, bool(return_state), dtype or V.dtype)
    out, *states = _Scan.apply(
        Q, K, V, ADT, DT, Trap, Q_bias, K_bias, Angles, MIMO_V, MIMO_Z, MIMO_Out, D, Z, None, None, None, None, cu_seqlens, options
    )
    return (out, *states) if return_state else out


@dataclass(frozen=True)
class _Options:
    """neighbours: which numbers turn together. last: are the states after the last tokens asked for. dtype: of the output."""

    neighbours: bool
    last: bool
    dtype: torch.dtype


class _Scan(torch.autograd.Function):
    """Q, K: (batch, length, rank, ngroups, d_state), biases (nheads, rank, d_state). Returns out, (batch, length, nheads, headdim) with
    MIMO_Out, else (batch, length, rank, nheads, headdim), and the four states (sequences, ...), or None."""

    @staticmethod
    def forward(
        ctx: Any,
        Q: Tensor,
        K: Tensor,
        V: Tensor,
        ADT: Tensor,
        DT: Tensor,
        Trap: Tensor,
        Q_bias: Tensor,
        K_bias: Tensor,
        Angles: Tensor,
        up: Tensor | None,
        gate: Tensor | None,
        down: Tensor | None,
        D: Tensor | None,
        Z: Tensor | None,
        angle: Tensor | None,
        ssm: Tensor | None,
        key: Tensor | None,
        value: Tensor | None,
        borders: Tensor | None,
        options: _Options,
    ) -> tuple[Tensor | None, ...]:
        inputs = (Q, K, V, ADT, DT, Trap, Q_bias, K_bias, Angles, up, gate, down, D, Z, angle, ssm, key, value)
        call = _Inputs.of(inputs, borders, options)
        keep = any(ctx.needs_input_grad) and (Z is not None or down is not None)
        outputs, ungated = call.forward(keep)
        ctx.save_for_backward(*inputs, borders, ungated)
        ctx.options = options
        return outputs

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dout: Tensor, *dlast: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, borders, ungated = ctx.saved_tensors
        call = _Inputs.of(tuple(inputs), borders, ctx.options)
        gradients = call.backward(dout, dlast if ctx.options.last else None, ungated)
        return *(None if x is None or g is None else g.to(x.dtype) for x, g in zip(inputs, gradients)), None, None


@dataclass(frozen=True)
class _Turned:
    """As mamba3_turns_kernel and mamba3_rotate_kernel leave them."""

    q: Tensor
    k: Tensor
    sums: Tensor
    scale: Tensor
    gamma: Tensor
    angles: Tensor | None
    sequences: Tensor | None


@dataclass(frozen=True)
class _Inputs:
    """The arguments as the kernels take them: Q, K and V of one dtype; what is of a head or a sequence contiguous."""

    Q: Tensor
    K: Tensor
    V: Tensor
    ADT: Tensor
    DT: Tensor
    Trap: Tensor
    Q_bias: Tensor
    K_bias: Tensor
    Angles: Tensor
    up: Tensor | None
    gate: Tensor | None
    down: Tensor | None
    D: Tensor | None
    Z: Tensor | None
    angle: Tensor | None
    ssm: Tensor | None
    key: Tensor | None
    value: Tensor | None
    borders: Tensor | None
    options: _Options

    @classmethod
    def of(cls, inputs: tuple[Tensor | None, ...], borders: Tensor | None, options: _Options) -> _Inputs:
        Q, K, V, ADT, DT, Trap, Q_bias, K_bias, Angles, *optional, Z = inputs[:14]
        kind = functools.reduce(torch.promote_types, (x.dtype for x in (Q, K, V) if x is not None))
        same = (None if x is None else x.to(kind) for x in (Q, K, V))
        of_head = [None if x is None else x.contiguous() for x in (Q_bias, K_bias, *optional)]
        of_sequence = [None if x is None else x.contiguous() for x in (*inputs[14:], borders)]
        made: Any = (*same, ADT, DT, Trap, *of_head[:2], Angles, *of_head[2:], Z, *of_sequence, options)
        return cls(*made)

    @property
    def sequences(self) -> int:
        return self.V.shape[0] if self.borders is None else self.borders.shape[0] - 1

    @property
    def wide(self) -> bool:
        return self.V.dtype == torch.float32

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.V.device)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float32, device=self.V.device)

    def chunks(self, q: int) -> int:
        """Of all sequences, as the kernels number them."""
        batch, length = self.V.shape[:2]
        return batch * -(-length // q) if self.borders is None else length // q + self.sequences

    def compiled_for(self, plan: Mamba3Plan) -> dict[str, Any]:
        told = {} if plan.registers is None else {"maxnreg": plan.registers}
        return {
            "Q": plan.q, "RANK": self.Q.shape[2], "RANKS": plan.ranks, "P": self.V.shape[3], "N": self.Q.shape[4],
            "BLOCK_P": plan.block_p, "BLOCK_N": plan.block_n, "NEIGHBOURS": self.options.neighbours, "PACKED": self.borders is not None,
            "HAS_UP": self.up is not None, "PRECISION": precision(self.V), "num_warps": plan.warps, "num_stages": plan.stages, **told,
        }  # fmt: skip

    @property
    def float64(self) -> bool:
        """Are running sums in float64."""
        return self.wide and has_float64(self.V.device)

    def forward(self, keep: bool) -> tuple[tuple[Tensor | None, ...], Tensor | None]:
        """out, the states after the last tokens, and the output before gate and sum over ranks where kept."""
        batch, length, heads, headdim = self.V.shape
        rank, d_state = self.Q.shape[2], self.Q.shape[4]
        ranks = () if self.down is not None else (rank,)
        out = self.new(batch, length, *ranks, heads, headdim, dtype=self.options.dtype)
        ungated = self.new(batch, length, rank, heads, headdim, dtype=self.V.dtype) if keep else None
        last: tuple[Tensor | None, ...] = (None,) * 4
        if self.options.last:
            shapes = self._states()
            # zeros: what a sequence without tokens leaves behind
            last = tuple(torch.zeros(shape, dtype=torch.float32, device=self.V.device) for shape in shapes)
        plan = forward_plan(rank, headdim, d_state, self.wide, self.sequences * heads < MANY_HEADS, self.options.last, self.V.device)
        turned = self._turned(plan.q, last[0], last[2], False)
        self._walk(plan, turned, out, ungated, None, last)
        if last[3] is not None:
            last = (*last[:3], last[3].to(self.V.dtype))
        return (out, *last), ungated

    def _states(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the states of angle, scan, last key and last value."""
        many, heads, headdim = self.sequences, self.V.shape[2], self.V.shape[3]
        rank, d_state = self.Q.shape[2], self.Q.shape[4]
        return (many, heads, self.Angles.shape[3]), (many, heads, headdim, d_state), (many, rank, heads, d_state), (many, heads, headdim)

    def _turned(self, q: int, angle_last: Tensor | None, key_last: Tensor | None, backward: bool) -> _Turned:
        """What chunks of q tokens need of Q, K and the steps. Where the states after the last tokens are asked for, keys stay float32."""
        batch, length, heads = self.V.shape[:3]
        rank, groups, d_state = self.Q.shape[2:]
        angles, kind, chunks = self.Angles.shape[3], self.V.dtype, self.chunks(q)
        sums, scale, gamma = (self.new(batch, heads, length) for _ in range(3))
        queries = self.new(batch, length, rank, heads, d_state, dtype=kind)
        keys = torch.empty_like(queries, dtype=kind if key_last is None else torch.float32)
        turns = self.new(chunks, heads, angles, dtype=torch.int32)
        turned = self.new(batch, length, heads, angles, dtype=torch.int32) if backward else None
        packed = self.borders is not None
        # a chunk of no sequence stays negative
        sequences = torch.full((chunks,), -1, dtype=torch.int32, device=self.V.device) if packed else None
        scalars = (*self.DT.stride(), *self.Trap.stride(), *self.Angles.stride(), length, heads)
        block_n = max(power_of_2(d_state), 4)
        block_a = max(power_of_2(max(angles, 1)), block_n // 8, 2)
        told = {"Q": q, "ANGLES": angles, "BLOCK_A": block_a, "PACKED": packed, "HAS_LAST": key_last is not None, "num_stages": 1}
        with on_device(self.V):
            mamba3_turns_kernel[(heads, self.sequences)](
                self.Angles, self.DT, self.borders, self.angle, turns, sequences, angle_last,
                *self.Angles.stride(), *self.DT.stride(), length, heads,
                G=max(256 // q, 1), HAS_FIRST=self.angle is not None, num_warps=8, **told,
            )  # fmt: skip
            mamba3_rotate_kernel[(heads, chunks)](
                self.Q, self.K, self.ADT, self.DT, self.Trap, self.Q_bias, self.K_bias, self.Angles, self.borders, sequences, turns,
                queries, keys, sums, scale, gamma, turned, key_last,
                *self.Q.stride(), *self.K.stride(), *self.ADT.stride(), *scalars, heads // groups,
                RANK=rank, N=d_state, BLOCK_N=max(block_n, 2 * block_a), NEIGHBOURS=self.options.neighbours, FLOAT64=self.float64,
                HAS_ANGLES=backward, num_warps=4 if q > 16 else 2 if q > 8 else 1, **told,
            )  # fmt: skip
        return _Turned(queries, keys, sums, scale, gamma, turned, sequences)

    def _walk(
        self,
        plan: Mamba3Plan,
        turned: _Turned,
        out: Tensor | None,
        ungated: Tensor | None,
        states: Tensor | None,
        last: tuple[Tensor | None, ...],
    ) -> None:
        heads, headdim = self.V.shape[2:]
        of_Z = (0,) * 4 if self.Z is None else self.Z.stride()
        with on_device(self.V):
            mamba3_walk_kernel[(heads * -(-headdim // plan.block_p), self.sequences)](
                turned.q, turned.k, self.V, turned.sums, turned.scale, turned.gamma, self.DT, self.Trap, self.up, self.gate, self.down,
                self.D, self.Z, self.borders, self.ssm, self.key, self.value, out, ungated, states, *last[1:],
                *self.V.stride(), *self.DT.stride(), *self.Trap.stride(), *of_Z, self.V.shape[1], heads, 0,
                HAS_FIRST=self.ssm is not None, HAS_LAST=last[1] is not None, HAS_OUT=out is not None, HAS_UNGATED=ungated is not None,
                HAS_STATES=states is not None, HAS_DOWN=self.down is not None, HAS_D=self.D is not None, HAS_Z=self.Z is not None,
                **self.compiled_for(plan),
            )  # fmt: skip

    def backward(self, dout: Tensor, dlast: tuple[Tensor | None, ...] | None, ungated: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of everything up to value, in that order."""
        batch, length, heads, headdim = self.V.shape
        rank, groups, d_state = self.Q.shape[2:]
        many, angles, kind = self.sequences, self.Angles.shape[3], self.V.dtype
        plan = backward_plan(rank, headdim, d_state, self.wide, self.V.device)
        states = self.new(self.chunks(plan.q), heads, headdim, d_state, dtype=kind)
        walks = walks_of(plan, many * heads < MANY_HEADS, self.wide, self.ssm is not None, self.V.device)
        turned = self._turned(plan.q, None, None, True)
        self._walk(replace(walks, block_n=plan.block_n), turned, None, None, states, (None,) * 4)
        many_chunks = states.shape[0]
        dstates, dy = torch.empty_like(states), self.new(batch, length, rank, heads, headdim, dtype=kind)
        # of every head; their sum over a group's heads is rounded no better
        dq, dk = (self.new(batch, length, rank, heads, d_state, dtype=kind) for _ in range(2))
        dv, dz = self.new(*self.V.shape, dtype=kind), None if self.Z is None else self.new(*self.V.shape, dtype=self.Z.dtype)
        dadt, dgamma, dbeta, ddt, dtrap = (self.new(batch, heads, length) for _ in range(5))
        of_angle, dangles = (self.new(batch, length, heads, angles) for _ in range(2))
        dsums, at_end = self.new(many_chunks, heads, plan.rows), self.new(many_chunks, heads)
        # of chunks that are there, and zero for those that are not
        dq_bias, dk_bias = (self._zeros(many_chunks, heads, rank, d_state) for _ in range(2))
        dD = None if self.D is None else self._zeros(many_chunks, heads)
        dup = None if self.up is None else self._zeros(many_chunks, heads, rank, headdim)
        dgate, ddown = (None if x is None else self.new(many, heads, rank, headdim) for x in (self.gate, self.down))
        dfirst: tuple[Tensor | None, ...] = (None,) * 4
        if self.ssm is not None:
            # a state is handed in with rank one alone
            dfirst = tuple(self.new(*shape) for shape in self._states())
            dfirst = (*dfirst[:2], dfirst[2].view(many, heads, d_state), dfirst[3])  # type: ignore[union-attr]
        given: tuple[Tensor | None, ...] = (None,) * 4
        if dlast is not None:
            zeros = (self._zeros(*shape) if g is None else g.contiguous() for g, shape in zip(dlast, self._states()))
            given = tuple(zeros)
        compiled, of_rows = self.compiled_for(plan), (*self.V.stride(), length, heads)
        of_Z = (0,) * 4 if self.Z is None else self.Z.stride()
        chunkwise = {**compiled, "ANGLES": angles, "FLOAT64": self.float64}
        with on_device(self.V):
            mamba3_dstate_kernel[(heads * -(-d_state // walks.block_n), many)](
                dout.contiguous(), turned.q, turned.sums, self.DT, self.Trap, self.gate, self.down, self.Z, self.borders, ungated,
                self.key, self.value, *given[1:], dy, dz, dstates, dgate, ddown, dbeta, *dfirst[1:],
                *self.DT.stride(), *self.Trap.stride(), *of_Z, length, heads, 0,
                HAS_FIRST=self.ssm is not None, HAS_LAST=dlast is not None, HAS_DOWN=self.down is not None, HAS_Z=self.Z is not None,
                **self.compiled_for(replace(walks, block_p=plan.block_p)),
            )  # fmt: skip
            rows = (turned.q, turned.k, self.V, turned.sums, turned.scale, turned.gamma, turned.angles, self.up)
            mamba3_keys_backward_kernel[(heads, many_chunks)](
                *rows, self.D, self.borders, turned.sequences, dstates, dy, given[2], given[3],
                dk, dv, dk_bias, dup, dD, of_angle, dsums, at_end, dgamma, dbeta,
                *of_rows, HAS_LAST=dlast is not None, HAS_D=self.D is not None, **chunkwise,
            )  # fmt: skip
            mamba3_queries_backward_kernel[(heads, many_chunks)](
                *rows, self.borders, turned.sequences, states, dstates, dy, dsums, at_end, dq, dq_bias, of_angle, dadt,
                *of_rows, **chunkwise,
            )  # fmt: skip
            mamba3_angles_backward_kernel[(heads, many)](
                self.Angles, self.DT, self.Trap, of_angle, dgamma, dbeta, self.borders, given[0], dangles, ddt, dtrap, dfirst[0],
                *self.Angles.stride(), *self.DT.stride(), *self.Trap.stride(), length, heads, 0,
                Q=128, ANGLES=angles, PAIRS=max(power_of_2(max(angles, 1)), 2), PACKED=self.borders is not None,
                HAS_FIRST=self.ssm is not None, HAS_LAST=dlast is not None, num_warps=8, num_stages=1,
            )  # fmt: skip
        dQ, dK = (x.unflatten(3, (groups, heads // groups)).sum(4) for x in (dq, dk))
        of_parameters = (None if x is None else x.sum(0) for x in (dup, dgate, ddown, dD))
        return dQ, dK, dv, dadt, ddt, dtrap, dq_bias.sum(0), dk_bias.sum(0), dangles, *of_parameters, dz, *dfirst


def precision(x: Tensor) -> str:
    """Of products of float32 operands; bfloat16 and float16 ones are exact."""
    return "ieee" if x.device.type != "cuda" or torch.version.hip is not None else "tf32x3"

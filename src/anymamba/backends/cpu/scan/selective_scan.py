"""selective_scan_fn on processors: argument layout, autograd and reductions around the two kernels."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.cpu.jit.compile import Program
from anymamba.backends.cpu.jit.emit import dtype_name
from anymamba.backends.cpu.jit.target import host
from anymamba.backends.cpu.scan.selective_scan_backward import backward
from anymamba.backends.cpu.scan.selective_scan_forward import forward
from anymamba.backends.cpu.scan.selective_scan_task import PADDING, TILE, Options, blocking
from anymamba.backends.documents import starts
from anymamba.backends.transforms import first_derivative_only
from anymamba.language import _

LARGEST_STATE = 256


def supports(call: Call) -> tuple[bool, str]:
    """float32, bfloat16 and float16 with real A and input-dependent B and C."""
    if call.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False, _("no kernel for {dtype}").format(dtype=dtype_name(call.dtype))
    if call.dtype is torch.float16 and not host().f16:
        return False, _("this processor does not convert float16")
    if "complex_A" in call.features:
        return False, _("A is complex")
    if call.features & {"constant_B", "constant_C"}:
        return False, _("B or C does not depend on the input")
    if call.size("d_state") > LARGEST_STATE:
        return False, _("d_state is above {largest}").format(largest=LARGEST_STATE)
    return True, _("compiled for this processor")


def variant(call: Call) -> str:
    """Options that are compiled in and change how the state is walked."""
    extra = {"initial_states": "from a state", "seq_idx": "documents"}
    return ", ".join(name for feature, name in extra.items() if feature in call.features)


def selective_scan_fn(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
    delta_bias: Tensor | None = None, delta_softplus: bool = False, return_last_state: bool = False,
    initial_states: Tensor | None = None, seq_idx: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """See anymamba.ops.selective_scan.selective_scan. u, delta, z (batch, d_inner, length) are read without a copy where they are
    transposed views of (batch, length, d_inner); a tensor with neighbouring steps side by side is copied once, and so is its gradient."""
    marks = None if seq_idx is None else starts(seq_idx).to(torch.int32).masked_fill_(seq_idx < 0, PADDING)
    flags = bool(delta_softplus), bool(return_last_state)
    out, last_state = _SelectiveScan.apply(u, delta, A, B, C, D, z, delta_bias, *flags, initial_states, marks)
    return (out, last_state) if return_last_state else out


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
        delta_bias: Tensor | None, delta_softplus: bool, return_last_state: bool, initial: Tensor | None, marks: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        call = _Arguments(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial is not None, marks)
        keep = any(ctx.needs_input_grad)
        out, last_state, saved_states = call.forward(keep, return_last_state, initial)
        # not initial: it is among what is kept, and the caller may change it before the backward pass
        ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, saved_states, marks)
        ctx.delta_softplus, ctx.initial = delta_softplus, None if initial is None else initial.dtype
        if last_state is not None:
            ctx.mark_non_differentiable(last_state)
        return out, last_state

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dout: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        u, delta, A, B, C, D, z, delta_bias, saved_states, marks = ctx.saved_tensors
        arguments = _Arguments(u, delta, A, B, C, D, z, delta_bias, ctx.delta_softplus, ctx.initial is not None, marks)
        *gradients, initial = arguments.backward(dout, saved_states)
        return (*gradients, None, None, None if initial is None else initial.to(ctx.initial), None)


class _Arguments:
    """The tensors as the kernels take them: activations (batch, length, channels) with channel stride 1, B and C
    (batch, groups, d_state, length) with any strides, parameters in float32."""

    def __init__(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
        delta_bias: Tensor | None, delta_softplus: bool, from_state: bool, marks: Tensor | None,
    ) -> None:  # fmt: skip
        self.given = u, delta, A, B, C, D, z, delta_bias
        self.u, self.delta, self.z = _rows(u), _rows(delta), None if z is None else _rows(z)
        self.A, self.D, self.bias, self.marks = A.float(), _parameter(D), _parameter(delta_bias), marks
        self.B, self.C = (x.unsqueeze(1) if x.dim() == 3 else x for x in (B, C))
        # a B and a C of different numbers of groups are read as if both had the larger
        groups = max(self.B.shape[1], self.C.shape[1])
        self.B, self.C = (_with_groups(x, groups) for x in (self.B, self.C))
        self.batch, self.length, self.channels = self.u.shape
        self.groups, self.state = groups, A.shape[1]
        z_dtype = None if self.z is None else dtype_name(self.z.dtype)
        self.options = Options(
            dtype_name(self.u.dtype), dtype_name(self.delta.dtype), z_dtype, dtype_name(B.dtype), dtype_name(C.dtype),
            self.state, D is not None, delta_bias is not None, delta_softplus, from_state, marks is not None,
        )  # fmt: skip

    def forward(self, keep: bool, last: bool, initial: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        # no view leaves this node: the caller may not change a view made in here in place
        rows = self.length * self.channels, 1, self.channels
        whole = self.u.new_empty_strided((self.batch, self.channels, self.length), rows)
        out = whole.mT
        saved_states = self.u.new_empty(self._saved_states_size() if keep else 0, dtype=torch.float32)
        last_state = self.u.new_empty(self.batch, self.channels, self.state, dtype=torch.float32) if last else None
        arguments: dict[str, Any] = {
            "saved_states": saved_states, "last_state": last_state, "last_state_batch": self.channels * self.state,
        }  # fmt: skip
        if initial is not None:
            initial = initial.float()
            strides = zip(("batch", "channel", "state"), initial.stride())
            arguments.update({"initial": initial, **{f"initial_{axis}": stride for axis, stride in strides}})
        _forward_program(self.options, keep, last).run(**self._cut(False), **self._shared(), **_sequence("out", out), **arguments)
        result = _as_given(out, self.given[0])
        return whole if result.data_ptr() == whole.data_ptr() else result, last_state, saved_states if keep else None

    def backward(self, dout: Tensor, saved_states: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, D, z, delta_bias = self.given
        du, ddelta = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (self.u, self.delta))
        dz = None if self.z is None else torch.empty_like(self.z, memory_format=torch.contiguous_format)
        cut = self._cut(True)
        runs = cut["runs"]
        dA = self.A.new_empty(self.batch, self.channels, self.state)
        dD, dbias = (self.A.new_empty(self.batch, self.channels) if x is not None else None for x in (D, delta_bias))
        dB, dC = (self.A.new_empty(self.batch, self.groups, runs, self.length, self.state) for _ in range(2))
        sequences = {**_sequence("dout", _rows(dout)), **_sequence("du", du), **_sequence("ddelta", ddelta)}
        sequences.update(_sequence("dz", dz) if dz is not None else {})
        dinitial = torch.empty_like(dA) if self.options.initial else None
        _backward_program(self.options).run(
            **cut, **self._shared(), **sequences, saved_states=saved_states, dA=dA, dD=dD, ddelta_bias=dbias, dB=dB, dC=dC,
            dinitial=dinitial,
        )  # fmt: skip
        return (
            _as_given(du, u),
            _as_given(ddelta, delta),
            dA.sum(0).to(A.dtype),
            _like_map(dB, B),
            _like_map(dC, C),
            None if dD is None or D is None else dD.sum(0).to(D.dtype),
            None if dz is None or z is None else _as_given(dz, z),
            None if dbias is None or delta_bias is None else dbias.sum(0).to(delta_bias.dtype),
            dinitial,
        )

    def _blocks(self) -> int:
        """Vectors that the channels of a group fill, the last perhaps in part."""
        return -(-(self.channels // self.groups) // host().width)

    def _saved_states_size(self) -> int:
        return self.batch * -(-self.length // TILE) * self.groups * self._blocks() * self.state * host().width

    def _cut(self, backward: bool) -> dict[str, int]:
        """How the blocks of a group are dealt to tasks: as few tasks as fill the cores evenly."""
        blocks, most = self._blocks(), blocking(host().width, self.state, backward).blocks
        runs, workers = -(-blocks // most), torch.get_num_threads()
        while runs < blocks and self.batch * self.groups * runs % workers:
            runs += 1
        return {"tasks": self.batch * self.groups * runs, "runs": runs, "run_blocks": -(-blocks // runs)}

    def _shared(self) -> dict[str, Any]:
        shared: dict[str, Any] = {"length": self.length, "channels": self.channels, "groups": self.groups}
        shared.update(A=self.A, A_channel=self.A.stride(0), A_state=self.A.stride(1), D=self.D, delta_bias=self.bias)
        shared.update(_sequence("u", self.u), **_sequence("delta", self.delta), marks=self.marks)
        if self.z is not None:
            shared.update(_sequence("z", self.z))
        for name, x in (("B", self.B), ("C", self.C)):
            strides = zip(("batch", "group", "state", "time"), x.stride())
            shared.update({name: x, **{f"{name}_{axis}": stride for axis, stride in strides}})
        return shared


@functools.cache
def _forward_program(options: Options, keep: bool, last: bool) -> Program:
    return Program("selective_scan_forward", forward, options, keep, last)


@functools.cache
def _backward_program(options: Options) -> Program:
    return Program("selective_scan_backward", backward, options)


def _rows(x: Tensor) -> Tensor:
    """(batch, d, length) as (batch, length, d) with channel stride 1: a view where it can be one."""
    rows = x.transpose(1, 2)
    return rows if rows.stride(2) == 1 or rows.shape[2] == 1 else rows.contiguous()


def _as_given(rows: Tensor, given: Tensor) -> Tensor:
    """(batch, length, d) back to (batch, d, length), neighbouring steps side by side if they were so in ``given``."""
    result = rows.transpose(1, 2)
    return result if given.stride(1) == 1 or given.stride(2) != 1 else result.contiguous()


def _parameter(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float().contiguous()


def _with_groups(x: Tensor, groups: int) -> Tensor:
    return x if x.shape[1] == groups else x.repeat_interleave(groups // x.shape[1], dim=1)


def _like_map(partial: Tensor, given: Tensor) -> Tensor:
    """(batch, groups, runs, length, d_state) partial sums to the gradient of B or C, its last two axes lying as theirs."""
    total = partial.sum(2)
    own_groups = 1 if given.dim() == 3 else given.shape[1]
    if own_groups != total.shape[1]:
        total = total.unflatten(1, (own_groups, -1)).sum(2)
    total = total.to(given.dtype).transpose(-1, -2)
    return total.squeeze(1) if given.dim() == 3 else total


def _sequence(name: str, rows: Tensor) -> dict[str, Any]:
    return {name: rows, f"{name}_batch": rows.stride(0), f"{name}_time": rows.stride(1)}

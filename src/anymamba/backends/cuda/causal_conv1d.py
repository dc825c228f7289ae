"""causal_conv1d_fn on kernels in CUDA C++. A call is prepared for its shapes, strides, dtypes and alignment: what is left to do for the
next of the same kind is to allocate and to launch."""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.cuda import causal_conv1d_launch as launch
from anymamba.backends.cuda import memory, nvrtc
from anymamba.backends.refusal import NotCompiled
from anymamba.backends.transforms import first_derivative_only
from anymamba.language import _

LEFT_TO_REST = frozenset({"initial_states", "seq_idx", "many_channels_last"})


def supports(call: Call) -> tuple[bool, str]:
    """1 to 8 taps of real numbers of up to 32 bits."""
    ok, reason = nvrtc.usable(call.device)
    if not ok:
        return ok, reason
    if call.dtype not in launch.TYPES or "float64_weights" in call.features:
        name = "float64" if call.dtype in launch.TYPES else str(call.dtype).removeprefix("torch.")
        return False, _("has float32, bfloat16 and float16 kernels, not {name}").format(name=name)
    if call.features & {"initial_states", "seq_idx"}:
        return False, _("initial states and packed documents are left to Triton")
    if "many_channels_last" in call.features and importlib.util.find_spec("triton") is not None:
        return False, _("left to backend {other!r}").format(other="triton")  # a launch costs nothing there, and its kernels are measured
    if not 1 <= call.size("width") <= launch.LARGEST_WIDTH:
        return False, _("has kernels for 1 to {largest} taps").format(largest=launch.LARGEST_WIDTH)
    return True, reason


def variant(call: Call) -> str:
    """What lies side by side in memory, and all else that the plans compile into the kernels."""
    names = [f"{call.size('width', 4)} taps", *kernels(call)]
    return ", ".join([f"{'steps' if 'length_contiguous' in call.features else 'channels'} side by side", *names])


def kernels(call: Call) -> list[str]:
    """By what is compiled into each."""
    size, channels, length = call.dtype.itemsize, call.size("dim", 20), call.size("length", 37)
    rows = "length_contiguous" in call.features
    values = min(launch.common(channels * size) // size, 4)
    sizes = launch.Sizes(call.size("batch", 2), channels, length, call.size("width", 4), size, values, call.device)
    if rows:
        plan, back = launch.rows_forward_plan(sizes), launch.rows_backward_plan(sizes)
        names = [f"rows of {launch.common(length * size)} bytes", f"{plan.lanes} lanes x {plan.segments}"]
        return [*names, f"backward {back.threads} threads"] if call.grad else names
    across, behind = launch.channels_forward_plan(sizes), launch.channels_backward_plan(sizes)
    names = [f"{across.values} a lane, {across.threads} threads"]
    return [*names, f"backward {behind.values} a lane"] if call.grad else names


def probe(call: Call) -> list[dict[str, Any]]:
    """Sizes of the op's inputs that take the same kernels: as many steps in the last of two segments, and rows for a block of each size."""
    batch, channels, length, width = (call.size(name, some) for name, some in (("batch", 2), ("dim", 20), ("length", 37), ("width", 4)))
    rows = "length_contiguous" in call.features
    sizes: dict[str, Any] = {"width": width, "layout": "length" if rows else "channels"}
    wanted = variant(call)
    for many, wide, long in itertools.product((1, 2, 4, 8, 16, 32), (*_CHANNELS, channels), (37, 70, 150, 300, 600, length)):
        unit = launch.common(length * call.dtype.itemsize) // call.dtype.itemsize
        steps = max(long // (2 * unit) * 2 * unit + unit, unit) if rows and long != length else long
        like = replace(call, sizes=(("batch", many), ("dim", wide), ("length", steps), ("width", width)))
        if variant(like) == wanted:
            return [{"batch": many, "dim": wide, "length": steps, **sizes}]
    return [{"batch": batch, "dim": channels, "length": length, **sizes}]


_CHANNELS = (20, 22, 21, 260, 258, 257, 516, 514, 513)
"""Such that a lane has four, two or one, for blocks of each size."""


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """See anymamba.ops.causal_conv1d_fn. x: (batch, dim, length); copied unless the stride of channels or of time is 1. out is laid out
    like x."""
    grad = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in (x, weight, bias))
    if x.stride(1) != 1 and x.stride(2) != 1:
        x = x.contiguous()
    prepared = PreparedConv(x, weight, bias, activation is not None, grad)
    return prepared(x, weight, bias, None, None, return_final_states, final_states_out, activation)


class PreparedConv:
    """For tensors like those it was made from."""

    def __init__(self, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, grad: bool) -> None:
        batch, channels, length = x.shape
        rows = launch.in_rows(x)
        self.launch = (launch.rows_forward if rows else launch.channels_forward)(x, weight, bias, silu)
        dense = (channels * length, length, 1) if rows else (channels * length, 1, channels)
        self.out = memory.allocator((batch, channels, length), dense, x.dtype, x.device)
        self.silu, self.grad = silu, grad
        self.before = weight.shape[1] - 1
        self.backwards: dict[tuple[Any, ...], launch.Backward] = {}
        self.steps = 2 if rows else 1  # the dimension whose neighbours lie side by side
        if grad:  # a kernel that is refused is found out now, and not in the middle of a backward pass
            self.backward_launch(x, torch.empty_strided(x.shape, dense, dtype=x.dtype, device="meta"), weight, bias)

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, seq_idx: None, initial_states: None, return_final_states: bool,
        final_states_out: Tensor | None, activation: str | None,
    ) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
        out: Tensor = _Conv.apply(self, x, weight, bias) if self.grad else self.forward(x, weight, bias)
        if not return_final_states:
            return out
        length = x.shape[2]
        states = x[:, :, max(length - self.before, 0) :]
        if length < self.before:
            states = torch.cat([x.new_zeros(x.shape[0], x.shape[1], self.before - length), states], dim=2)
        return out, states.clone() if final_states_out is None else final_states_out.copy_(states)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = self.out()
        self.launch(x.data_ptr(), weight.data_ptr(), 0 if bias is None else bias.data_ptr(), out.data_ptr())
        return out

    def backward(self, x: Tensor, dout: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        if dout.stride(self.steps) != 1:
            dout = dout.contiguous() if self.steps == 2 else dout.transpose(1, 2).contiguous().transpose(1, 2)
        return self.backward_launch(x, dout, weight, bias)(x, dout, weight, bias)

    def backward_launch(self, x: Tensor, dout: Tensor, weight: Tensor, bias: Tensor | None) -> launch.Backward:
        key = dout.stride(), dout.data_ptr() & 15
        made = self.backwards.get(key)
        if made is None:
            made = self.backwards[key] = launch.Backward(x, dout, weight, bias, self.silu)
        return made


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prepared: PreparedConv, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.prepared = prepared
        return prepared.forward(x, weight, bias)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        return None, *ctx.prepared.backward(x, dout, weight, bias)


def _prepare(
    x: Tensor, weight: Tensor, bias: Tensor | None, seq_idx: Tensor | None, initial_states: Tensor | None, final: bool,
    out: Tensor | None, activation: str | None, grad: bool,
) -> PreparedConv | None:  # fmt: skip
    """For dispatch.remember: arguments of causal_conv1d_fn, and whether gradients are needed."""
    if x.stride(1) != 1 and x.stride(2) != 1:
        return None
    try:
        return PreparedConv(x, weight, bias, activation is not None, grad)
    except NotCompiled:
        return None  # the call itself meets it, and says so


causal_conv1d_fn.prepare = _prepare  # type: ignore[attr-defined]

"""A scan along channels that lie side by side with all but the addresses decided beforehand, as in selective_scan_rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymamba.backends.cuda import selective_scan_launch as launch
from anymamba.backends.cuda.selective_scan_channels_backward import Backward
from anymamba.backends.transforms import first_derivative_only


class PreparedChannels:
    """For tensors of the dtypes, shapes, strides and alignments of those it was made from."""

    def __init__(self, *given: Any, softplus: bool, return_last_state: bool, grad: bool) -> None:
        u, delta, A, B, C, D, z, delta_bias = given
        (batch, channels, length), device = u.shape, u.device
        tokens = u, delta, A, launch.tokens(B), launch.tokens(C), D, z, delta_bias
        packed = B.element_size() == C.element_size() == 2
        plan = launch.forward_plan(batch, channels, length, device, packed)
        self.plan = launch.backward_plan(batch, channels, length, device)
        self.softplus, self.return_last_state, self.grad = softplus, return_last_state, grad
        self.shapes = B.shape, C.shape
        self.forward = launch.Forward(*tokens, softplus, return_last_state, self.plan.window if grad else 0, plan)
        self.backwards: dict[tuple[Any, ...], Backward] = {}
        if grad:  # a kernel that is refused is found out now, and not in the middle of a backward pass
            self.backward_of(torch.empty_strided(u.shape, (channels * length, 1, channels), dtype=u.dtype, device="meta"), given)

    def __call__(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None,
        softplus: bool, return_last_state: bool,
    ) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
        if self.grad:
            out, last = _Channels.apply(self, u, delta, A, B, C, D, z, delta_bias)
        else:
            out, last, _ = self.forward(u, delta, A, B, C, D, z, delta_bias)
        return (out, last) if return_last_state else out

    def backward_of(self, dout: Tensor, given: tuple[Any, ...]) -> Backward:
        key = dout.stride()
        made = self.backwards.get(key)
        if made is None:
            u, delta, A, B, C, D, z, bias = given
            tokens = u, delta, A, launch.tokens(B), launch.tokens(C), D, z, bias
            made = self.backwards[key] = Backward(dout, *tokens, self.softplus, self.plan, self.shapes[0], self.shapes[1])
        return made


class _Channels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prepared: PreparedChannels, *given: Any) -> tuple[Tensor, Tensor | None]:
        out, last, checkpoint = prepared.forward(*given)
        ctx.save_for_backward(*given, checkpoint)
        ctx.prepared = prepared
        if last is not None:
            ctx.mark_non_differentiable(last)
            ctx.set_materialize_grads(False)  # or there are zeros for last_state, which passes no gradient on
        return out, last

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dout: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        *given, checkpoint = ctx.saved_tensors
        dout = launch.rows(dout)
        return None, *ctx.prepared.backward_of(dout, given)(dout, *given, checkpoint)


def prepare(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None,
    softplus: bool, return_last_state: bool, grad: bool,
) -> PreparedChannels | None:  # fmt: skip
    """None where these kernels do not read the tensors as they lie."""
    if not launch.suits(u, delta, A, B, C, z) or any(x is not None and x.stride(0) != 1 for x in (D, delta_bias)):
        return None
    if launch.tokens(B).data_ptr() != B.data_ptr() or launch.tokens(C).data_ptr() != C.data_ptr():
        return None
    given = u, delta, A, B, C, D, z, delta_bias
    return PreparedChannels(*given, softplus=softplus, return_last_state=return_last_state, grad=grad)

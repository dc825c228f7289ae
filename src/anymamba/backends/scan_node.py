"""The selective scan as a node of autograd, whatever kernels compute it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from anymamba.backends.transforms import first_derivative_only


@dataclass(frozen=True)
class Scan:
    """Kernels for both passes. u, delta, z, out: (batch, d_inner, length).

    forward(u, delta, A, B, C, D, z, delta_bias, softplus, return_last_state, training) gives out, the last state or None, with training
    the states that backward starts from, and a plan for it, whatever backward has to know.
    backward(dout, u, delta, A, B, C, D, z, delta_bias, softplus, states, plan, dz) gives the gradients of u, delta, A, B, C, D, z,
    delta_bias. dz: memory for z's, which may be used; or None.

    Kernels that start from a state (batch, d_inner, d_state) and take marks of documents (batch, length), either or both None, have two
    arguments more: forward's last are initial and marks; backward's are marks, and dinitial, float32 memory for the state's gradient.
    """

    forward: Callable[..., tuple[Tensor, Tensor | None, Tensor | None, Any]]
    backward: Callable[..., tuple[Tensor | None, ...]]


def selective_scan(
    scan: Scan,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    return_last_state: bool,
    initial: Tensor | None = None,
    marks: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """See anymamba.ops.selective_scan.selective_scan; differentiable."""
    if groups_differ(B, C):
        B, C = _of_common_groups(B, C)
    # the kernels read these two side by side
    D, delta_bias = (None if x is None else x.contiguous() for x in (D, delta_bias))
    flags = bool(delta_softplus), bool(return_last_state)
    out, last_state = _SelectiveScan.apply(scan, u, delta, A, B, C, D, z, delta_bias, *flags, initial, marks)
    return (out, last_state) if return_last_state else out


def groups_differ(B: Tensor, C: Tensor) -> bool:
    """Have both, changing with time, groups, and not as many: kernels know one number of groups."""
    return B.dim() > 2 and C.dim() > 2 and _groups(B) != _groups(C)


def _groups(x: Tensor) -> int:
    return x.shape[1] if x.dim() == 4 else 1


def _of_common_groups(B: Tensor, C: Tensor) -> list[Tensor]:
    """Both (batch, ngroups, d_state, length), those of the coarser groups repeated."""
    count = math.lcm(_groups(B), _groups(C))
    return [(x if x.dim() == 4 else x.unsqueeze(1)).repeat_interleave(count // _groups(x), dim=1) for x in (B, C)]


class _SelectiveScan(Function):
    @staticmethod
    def forward(
        ctx: Any,
        scan: Scan,
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
        initial: Tensor | None,
        marks: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        training = any(ctx.needs_input_grad)
        beyond = () if initial is None and marks is None else (initial, marks)
        flags = softplus, return_last_state, training
        out, last_state, states, plan = scan.forward(u, delta, A, B, C, D, z, delta_bias, *flags, *beyond)
        if training:  # not initial: it is the first of states, and the caller may change it before the backward pass
            ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, states, marks)
            ctx.scan, ctx.softplus, ctx.plan = scan, softplus, plan
            ctx.initial = None if initial is None else (initial.shape, initial.dtype)
        if last_state is not None:
            ctx.mark_non_differentiable(last_state)
        return out, last_state

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dout: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        *tensors, states, marks = ctx.saved_tensors
        given = dout, *tensors, ctx.softplus, states, ctx.plan
        if ctx.initial is None:
            gradients = ctx.scan.backward(*given) if marks is None else ctx.scan.backward(*given, marks=marks)
            return None, *gradients, None, None, None, None
        dinitial = torch.empty(ctx.initial[0], dtype=torch.float32, device=dout.device)
        return None, *ctx.scan.backward(*given, marks=marks, dinitial=dinitial), None, None, dinitial.to(ctx.initial[1]), None

"""The selective scan as a node of autograd, whatever kernels compute it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
) -> Tensor | tuple[Tensor, Tensor]:
    """See anymamba.ops.selective_scan_fn; differentiable."""
    if groups_differ(B, C):
        B, C = _of_common_groups(B, C)
    # the kernels read these two side by side
    D, delta_bias = (None if x is None else x.contiguous() for x in (D, delta_bias))
    out, last_state = _SelectiveScan.apply(scan, u, delta, A, B, C, D, z, delta_bias, bool(delta_softplus), bool(return_last_state))
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
    ) -> tuple[Tensor, Tensor | None]:
        training = any(ctx.needs_input_grad)
        out, last_state, states, plan = scan.forward(u, delta, A, B, C, D, z, delta_bias, softplus, return_last_state, training)
        if training:
            ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, states)
            ctx.scan, ctx.softplus, ctx.plan = scan, softplus, plan
        if last_state is not None:
            ctx.mark_non_differentiable(last_state)
        return out, last_state

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dout: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        *tensors, states = ctx.saved_tensors
        return None, *ctx.scan.backward(dout, *tensors, ctx.softplus, states, ctx.plan), None, None

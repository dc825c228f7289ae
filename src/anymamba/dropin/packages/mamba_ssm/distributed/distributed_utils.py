"""Sums and gatherings over a process group: raw (no gradient, may be asynchronous) and differentiable."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup as ProcessGroup

# torch renamed them in 2.13
_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def all_gather_raw(input_: Tensor, process_group: Any, async_op: bool = False) -> tuple[Tensor, Any]:
    """The parts of all members, joined along the first axis, and the handle to wait for (None unless async_op)."""
    output = input_.new_empty(process_group.size() * input_.shape[0], *input_.shape[1:])
    return output, _gather(output, input_.contiguous(), group=process_group, async_op=async_op)


def reduce_scatter_raw(input_: Tensor, process_group: Any, async_op: bool = False) -> tuple[Tensor, Any]:
    """This member's part, along the first axis, of the sum over the group, and the handle. The group must divide the first axis."""
    members = process_group.size()
    assert input_.shape[0] % members == 0, f"{members} members cannot share {input_.shape[0]} rows"
    output = input_.new_empty(input_.shape[0] // members, *input_.shape[1:])
    return output, _scatter(output, input_.contiguous(), group=process_group, async_op=async_op)


def all_reduce_raw(input_: Tensor, process_group: Any, async_op: bool = False) -> tuple[Tensor, Any]:
    """The sum over the group, written to input_ where that is contiguous, and the handle."""
    total = input_.contiguous()
    return total, dist.all_reduce(total, group=process_group, async_op=async_op)


class AllGatherFunc(torch.autograd.Function):
    """all_gather: its gradient is a reduce_scatter."""

    @staticmethod
    def forward(ctx: Any, input_: Tensor, process_group: Any) -> Tensor:
        ctx.process_group = process_group
        return all_gather_raw(input_, process_group)[0]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return reduce_scatter_raw(grad_output, ctx.process_group)[0], None


class ReduceScatterFunc(torch.autograd.Function):
    """reduce_scatter: its gradient is an all_gather."""

    @staticmethod
    def forward(ctx: Any, input_: Tensor, process_group: Any) -> Tensor:
        ctx.process_group = process_group
        return reduce_scatter_raw(input_, process_group)[0]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return all_gather_raw(grad_output, ctx.process_group)[0], None


class AllReduceFunc(torch.autograd.Function):
    """all_reduce of parts of one sum: the gradient reaches each part unchanged."""

    @staticmethod
    def forward(ctx: Any, input_: Tensor, process_group: Any) -> Tensor:
        return all_reduce_raw(input_.clone(), process_group)[0]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad_output, None


all_gather = AllGatherFunc.apply
reduce_scatter = ReduceScatterFunc.apply
all_reduce = AllReduceFunc.apply


def sync_shared_params(model: nn.Module, process_group: Any) -> None:
    """Parameters marked _shared_params take the values of the group's first member."""
    shared = {name: p for name, p in model.named_parameters() if getattr(p, "_shared_params", False)}
    for _, parameter in sorted(shared.items()):
        with torch.no_grad():
            dist.broadcast(parameter, src=dist.get_global_rank(process_group, 0), group=process_group)


def allreduce_sequence_parallel_grad(model: nn.Module, process_group: Any) -> None:
    """Gradients of parameters marked _sequence_parallel become their sums over the group."""
    marked = {name: p for name, p in model.named_parameters() if getattr(p, "_sequence_parallel", False)}
    for _, parameter in sorted(marked.items()):
        assert parameter.grad is not None
        dist.all_reduce(parameter.grad, group=process_group)


def get_dim_for_local_rank(dim: int, world_size: int, local_rank: int, multiple_of: int = 1) -> int:
    """How much of dim belongs to that rank: whole multiples, the first ranks one more where they do not divide evenly."""
    share, left = divmod(dim // multiple_of, world_size)
    return (share + (local_rank < left)) * multiple_of

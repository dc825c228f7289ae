"""A scan of rows with all but the addresses decided beforehand: what is left to do for a call is to allocate and to launch, for on small
tensors that is what a call costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.cuda import memory
from anymamba.backends.cuda import selective_scan_rows_launch as launch
from anymamba.backends.cuda.prepared_launch import Launch
from anymamba.backends.cuda.selective_scan_rows_launch import Backward, Given
from anymamba.backends.transforms import first_derivative_only


@dataclass(frozen=True)
class Copy:
    """Of a tensor that the kernels cannot read as it lies. index: among the arguments; allocate: memory for what they read."""

    index: int
    launch: Launch
    allocate: memory.Allocate

    def __call__(self, x: Tensor) -> Tensor:
        out = self.allocate()
        self.launch(x.data_ptr(), out.data_ptr())
        return out


class PreparedScan:
    """For tensors of the dtypes, shapes, strides and alignments of those it was made from."""

    def __init__(
        self, given: Given, shapes: tuple[torch.Size, torch.Size], copies: list[Copy], softplus: bool, return_last_state: bool, grad: bool
    ) -> None:
        self.copies = copies
        u, _, A, B, C, *_ = given
        sizes = launch.Sizes.of(u, B, C, A.shape[1])
        self.backward_plan = launch.backward_plan(sizes)
        self.every = self.backward_plan.tile if grad else 0
        self.launch = launch.forward_launch(given, softplus, return_last_state, self.every, launch.forward_plan(sizes))
        self.softplus, self.return_last_state, self.grad = softplus, return_last_state, grad
        self.shape_B, self.shape_C = shapes
        self.shape_rows_B, self.shape_rows_C = B.shape, C.shape
        self.backwards: dict[tuple[Any, ...], Backward] = {}
        if grad:  # a kernel that is refused is found out now, and not in the middle of a backward pass
            self.backward_launch(torch.empty(u.shape, dtype=u.dtype, device="meta"), given)

    def __call__(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None,
        softplus: bool, return_last_state: bool,
    ) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
        if self.grad:
            out, last = _Rows.apply(self, u, delta, A, B, C, D, z, delta_bias)
        else:
            given = self.read((u, delta, A, B, C, D, z, delta_bias))
            out, last, _ = launch.run_forward(self.launch, given)
        return (out, last) if return_last_state else out

    def read(self, given: Given) -> Given:
        """What the kernels read."""
        if not self.copies:
            return given
        tensors: list[Any] = list(given)
        for copy in self.copies:
            tensors[copy.index] = copy(tensors[copy.index])
        return tuple(tensors)

    def backward(self, dout: Tensor, given: Given, kept: Tensor) -> tuple[Tensor | None, ...]:
        dout = launch.rows(dout)
        return launch.run_backward(self.backward_launch(dout, given), dout, given, kept)

    def backward_launch(self, dout: Tensor, given: Given) -> Backward:
        key = dout.stride(), dout.data_ptr() & 15
        launches = self.backwards.get(key)
        if launches is None:
            u, delta, A, B, C, *rest = given
            rows: Given = u, delta, A, B.view(self.shape_rows_B), C.view(self.shape_rows_C), *rest  # type: ignore[assignment]
            launches = self.backwards[key] = launch.backward_launch(
                rows, dout, self.softplus, self.backward_plan, self.shape_B, self.shape_C
            )
        return launches


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prepared: PreparedScan, *given: Any) -> tuple[Tensor, Tensor | None]:
        given = prepared.read(given)
        out, last, kept = launch.run_forward(prepared.launch, given)
        ctx.save_for_backward(*given, kept)
        ctx.prepared = prepared
        if last is not None:
            ctx.mark_non_differentiable(last)
            ctx.set_materialize_grads(False)  # or there are zeros for last_state, which passes no gradient on
        return out, last

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dout: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        *given, kept = ctx.saved_tensors
        return None, *ctx.prepared.backward(dout, tuple(given), kept)


def prepare(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None,
    softplus: bool, return_last_state: bool, grad: bool,
) -> PreparedScan | None:  # fmt: skip
    """None where these kernels do not read the tensors, or not without a copy by PyTorch."""
    tensors: Given = (u, delta, A, B, C, D, z, delta_bias)
    if not launch.suits(*tensors) or any(x is not None and x.stride(0) != 1 for x in (D, delta_bias)):
        return None
    given, copies = launch.as_rows(*tensors), []
    for index, (x, read) in enumerate(zip(tensors, given)):
        if x is None or read is None or x.data_ptr() == read.data_ptr():
            continue
        flat = x if x.dim() == 3 else x.flatten(1, 2)
        if flat.data_ptr() != x.data_ptr():
            return None
        copies.append(Copy(index, launch.copy_launch(flat, read.shape[-1]), memory.contiguous(read.shape, x.dtype, x.device)))
    return PreparedScan(given, (B.shape, C.shape), copies, softplus, return_last_state, grad)

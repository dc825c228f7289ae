"""The loss as one node of a captured graph, ``torch.ops.anymamba.linear_cross_entropy``: a compiled model keeps its small memory too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Gradients = Callable[..., tuple[Tensor, "Tensor | None", "Tensor | None"]]

_SCHEMA = (
    "(Tensor hidden, Tensor weight, Tensor targets, Tensor weights, ScalarType dtype, bool needs_hidden, bool needs_weight)"
    " -> (Tensor, Tensor, Tensor)"
)


def define(loss_and_gradients: Gradients) -> Any:
    """The node: arguments of ``loss_and_gradients``; its results, empty tensors for gradients that are not needed."""

    def forward(
        hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, dtype: torch.dtype, needs_hidden: bool, needs_weight: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        loss, *gradients = loss_and_gradients(hidden, weight, targets, weights, dtype, needs_hidden, needs_weight)
        by_hidden, by_weight = (hidden.new_empty(0) if gradient is None else gradient for gradient in gradients)
        return loss, by_hidden, by_weight

    def shapes(
        hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, dtype: torch.dtype, needs_hidden: bool, needs_weight: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        loss = torch.empty((), dtype=torch.float32, device=hidden.device)
        by_hidden = torch.empty_like(hidden) if needs_hidden else hidden.new_empty(0)
        return loss, by_hidden, torch.empty_like(weight) if needs_weight else hidden.new_empty(0)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.needs = inputs[5:]
        ctx.save_for_backward(*output[1:])

    def backward(ctx: Any, factor: Tensor, *_: Any) -> tuple[Any, ...]:
        gradients = (
            (gradient * factor).to(gradient.dtype) if needed else None for gradient, needed in zip(ctx.saved_tensors, ctx.needs)
        )
        return (*gradients, None, None, None, None, None)

    node = torch.library.custom_op("anymamba::linear_cross_entropy", forward, mutates_args=(), schema=_SCHEMA)
    node.register_fake(shapes)
    node.register_autograd(backward, setup_context=keep)
    return node

"""The gradient of an embedding table that is also the head, formed once.

Autograd alone makes two gradients of the table's size, one almost all zeros, and adds them: at 50k tokens and 768 channels three
passes over 154 MB a step. Here the loss leaves its gradient in a ``SharedGradient``, and the embedding's backward pass, which
comes last because everything depends on the embedding, adds its few rows to it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SharedGradient:
    """For one forward and backward pass of one table."""

    def __init__(self) -> None:
        self.grad: Tensor | None = None


def shareable(table: Tensor) -> bool:
    """On the CPU, where adding rows one after the other is deterministic; for a plain parameter that is being trained."""
    plain = type(table) is nn.Parameter and table.device.type == "cpu"
    return plain and table.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def embed(table: Tensor, ids: Tensor, shared: SharedGradient) -> Tensor:
    """``F.embedding(ids, table)``: (batch, length) -> (batch, length, d_model)."""
    return _Embedding.apply(table, ids, shared)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, shared: SharedGradient) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shared, ctx.shape = shared, table.shape
        return F.embedding(ids, table.detach())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        (ids,) = ctx.saved_tensors
        total, ctx.shared.grad = ctx.shared.grad, None
        if total is None:
            total = grad.new_zeros(ctx.shape)
        total.index_add_(0, ids.flatten(), grad.flatten(0, -2).to(total.dtype))
        return total, None, None

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

from anymamba.models import plain
from anymamba.ops.calls.checks import has_values


class SharedGradient:
    """For one forward and backward pass of one table."""

    def __init__(self) -> None:
        self.grad: Tensor | None = None


def shareable(table: Tensor) -> bool:
    """On the CPU, where adding rows one after the other is deterministic; for a plain parameter that is being trained."""
    plain = type(table) is nn.Parameter and table.device.type == "cpu"
    return plain and table.requires_grad and torch.is_grad_enabled() and has_values(table)


def shares_gradient(model: Any) -> bool:
    """Whether the head and the embedding of this model are one table, reached by nothing but the two of them. With a hook or another
    module anywhere, the path from the loss to the embedding may be cut, and what the loss leaves here would not be fetched."""
    head, embedding = model.lm_head, model.backbone.embeddings
    return (
        not plain.obstacle(head) and not plain.obstacle(embedding) and head.weight is embedding.weight and shareable(head.weight)
        and head.bias is None  # the loss's matrix would have a column more than the table
        and embedding.max_norm is None and embedding.padding_idx is None and not embedding.scale_grad_by_freq and not embedding.sparse
        and all(not plain.obstacle(module) for module in model.modules())
    )  # fmt: skip


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
        if torch.is_grad_enabled():  # create_graph=True: the loss left nothing
            return total.index_add(0, ids.flatten(), grad.flatten(0, -2)), None, None
        total.index_add_(0, ids.flatten(), grad.flatten(0, -2).to(total.dtype))
        return total, None, None

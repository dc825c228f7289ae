"""Cross-entropy of a language model's head, without ever holding the logits of the whole sequence.

The head's matrix product, the softmax and their gradients are done for one block of tokens at a time, all in the forward pass:
the gradient of the loss by the logits needs nothing from above but a factor. Memory: one block of logits and the gradients of
the inputs, instead of several copies of (tokens, vocabulary) in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba import ops
from anymamba.backends.transforms import differentiated_again, transformed
from anymamba.errors import ArgumentError
from anymamba.language import _
from anymamba.models.trunk import loss_node
from anymamba.models.trunk.tied import SharedGradient
from anymamba.ops.calls.checks import has_values
from anymamba.ops.projection import autocast_dtype, in_float32, product

IGNORE_INDEX = -100

_BLOCK_BYTES = 64 * 2**20
"""Largest block of logits: large enough for full-speed matrix products, small beside the model."""

_CACHE_BYTES = 4 * 2**20
"""Largest piece of a block in float32: the softmax and its gradient pass over it while it is in the processor's cache."""

_ACCELERATOR_BLOCK_BYTES = 512 * 2**20
"""On a GPU a block is also the piece: small pieces would cost more to launch than to compute."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = IGNORE_INDEX,
    token_weights: Tensor | None = None,
    normalizer: Tensor | float | None = None,
    shared: SharedGradient | None = None,
) -> Tensor:
    """Cross-entropy in nats of ``hidden @ weight.T`` against targets: a float32 scalar.

    hidden: (..., d_model). weight: (vocabulary, d_model). targets: (...), ids, or ignore_index where nothing is to be learnt.
    token_weights: (...), the weight of each token's loss, 1 by default. The sum is divided by normalizer, by default the sum of
    the weights of the tokens that count (0 when none does). Under autocast the matrix products run in its dtype; logits are
    reduced and differentiated in float32. Raises ArgumentError for shapes that do not fit and for targets outside the vocabulary.
    shared: where to leave the gradient of weight, see tied.py.
    """
    _check(hidden, weight.shape[0], targets, ignore_index, token_weights)
    targets, weights = _shares(targets, ignore_index, token_weights, normalizer)
    dtype = autocast_dtype(hidden.device) or weight.dtype
    if transformed() or hidden.is_meta:
        return _in_torch(hidden.reshape(-1, hidden.shape[-1]), weight, targets, weights, dtype)
    if in_float32(dtype, hidden, weight):
        dtype = torch.float32  # the products are computed so anyway, and rounding the logits would cost time and digits
    if torch.compiler.is_compiling() or type(hidden).__name__ == "FakeTensor":
        grad = torch.is_grad_enabled()
        needs = grad and hidden.requires_grad, grad and weight.requires_grad
        return _node(hidden.reshape(-1, hidden.shape[-1]), weight, targets, weights, dtype, *needs)[0]
    return _LinearCrossEntropy.apply(
        hidden.reshape(-1, hidden.shape[-1]), weight, targets, weights, dtype, torch.is_grad_enabled(), shared
    )


def logits_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = IGNORE_INDEX,
    token_weights: Tensor | None = None,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """The same from logits (..., vocabulary), where these had to be made: they and their gradient are kept in memory."""
    _check(logits, logits.shape[-1], targets, ignore_index, token_weights)
    targets, weights = _shares(targets, ignore_index, token_weights, normalizer)
    flat = logits.reshape(-1, logits.shape[-1]).float()
    return (F.cross_entropy(flat, targets, reduction="none") * weights).sum()


def _shares(
    targets: Tensor, ignore_index: int, token_weights: Tensor | None, normalizer: Tensor | float | None
) -> tuple[Tensor, Tensor]:
    """Targets (tokens,), 0 where nothing is to be learnt, and the factor of each one's loss (tokens,) float32."""
    targets = targets.reshape(-1)
    counted = targets != ignore_index
    weights = counted.to(torch.float32)
    if token_weights is not None:
        weights = weights * token_weights.reshape(-1).to(torch.float32)
    total = (
        weights.sum() if normalizer is None else torch.as_tensor(normalizer, dtype=torch.float32, device=weights.device)
    )
    return torch.where(counted, targets, 0), weights / total.clamp(min=torch.finfo(torch.float32).tiny)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
        differentiable: bool,
        shared: SharedGradient | None,
    ) -> Tensor:
        # under no_grad, needs_input_grad still says that a parameter could have a gradient
        needs_hidden, needs_weight = (differentiable and needs for needs in ctx.needs_input_grad[:2])
        loss, grad_hidden, grad_weight = _loss_and_gradients(hidden, weight, targets, weights, dtype, needs_hidden, needs_weight)
        # for a second backward pass, and for second derivatives
        ctx.save_for_backward(hidden, weight, targets, weights)
        ctx.shared, ctx.dtype, ctx.needs = shared, dtype, (needs_hidden, needs_weight)
        # on ctx, not with save_for_backward: the backward pass hands them on instead of copying them
        ctx.grads = grad_hidden, grad_weight
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, weights = ctx.saved_tensors  # torch's own error where the graph was freed
        if torch.is_grad_enabled():  # create_graph=True: what was computed in the forward pass would pass for a constant

            def loss(hidden: Tensor, weight: Tensor) -> Tensor:
                return _in_torch(hidden, weight, targets, weights, ctx.dtype)

            return (*differentiated_again(loss, (hidden, weight), *grads), None, None, None, None, None)
        if ctx.grads is None:  # retain_graph=True, and a second backward pass
            ctx.grads = _loss_and_gradients(hidden, weight, targets, weights, ctx.dtype, *ctx.needs)[1:]
        (factor,), grads_of_inputs, ctx.grads = grads, ctx.grads, None
        for grad in grads_of_inputs:
            # asking for the value would make an accelerator wait; there the multiplication is cheap
            if grad is not None and not (factor.device.type == "cpu" and factor.item() == 1):
                grad.mul_(factor)
        if ctx.shared is not None:
            ctx.shared.grad = grads_of_inputs[1]
            grads_of_inputs = grads_of_inputs[0], None
        return (*grads_of_inputs, None, None, None, None, None)


def _in_torch(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """The same loss in operations that torch itself differentiates and transforms; the logits are kept."""
    logits = F.linear(hidden.to(dtype), weight.to(dtype))
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (F.cross_entropy(wide, targets, reduction="none") * weights).sum().float()


def _loss_and_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, dtype: torch.dtype, needs_hidden: bool, needs_weight: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The loss, and its gradients by hidden and by weight in their dtypes."""
    tokens, vocabulary = hidden.shape[0], weight.shape[0]
    block_bytes = _BLOCK_BYTES if hidden.device.type == "cpu" else _ACCELERATOR_BLOCK_BYTES
    narrow = hidden.device.type == "cpu" and dtype == torch.float32  # a 16-bit table is widened a tile at a time
    table = weight.detach() if narrow else weight.detach().to(dtype)
    loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
    grad_hidden = torch.empty_like(hidden) if needs_hidden else None
    grad_weight: Tensor | None = None
    with torch.autocast(hidden.device.type, enabled=False):
        for block in _blocks(tokens, vocabulary * dtype.itemsize, block_bytes):
            inputs, share = hidden[block].to(dtype), weights[block, None]
            slope = product(inputs, table, dtype)
            target_log_probabilities = _log_softmax_and_slope(slope, targets[block], needs_hidden or needs_weight)
            loss -= (target_log_probabilities * weights[block]).sum()
            # the weight of the token is multiplied into the small matrices instead of the logits' slope
            if grad_hidden is not None:
                grad_hidden[block] = product(slope, table.t(), dtype) * share
            if needs_weight:
                grad_weight = _add_product(grad_weight, slope.t(), (inputs * share).to(dtype))
    return loss, grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype)


_node = loss_node.define(_loss_and_gradients)


def _log_softmax_and_slope(logits: Tensor, targets: Tensor, slope: bool) -> Tensor:
    """The op of that name, on a processor over one piece of the block after another."""
    if logits.device.type != "cpu":
        return ops.log_softmax_and_slope(logits, targets, slope)
    pieces = _blocks(logits.shape[0], logits.shape[1] * 4, _CACHE_BYTES)
    return torch.cat([ops.log_softmax_and_slope(logits[rows], targets[rows], slope) for rows in pieces])


def _add_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """total + left @ right; the total is float32 as soon as there is more than one."""
    if total is None:
        return left @ right
    if left.dtype == torch.float32:
        return total.addmm_(left, right)
    return total.float().add_(left @ right)


def _blocks(tokens: int, row_bytes: int, most_bytes: int) -> list[slice]:
    """Equal parts, so that the last is no sliver."""
    count = max(1, -(-tokens // max(1, most_bytes // row_bytes)))
    size = max(1, -(-tokens // count))
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]


def _check(hidden: Tensor, vocabulary: int, targets: Tensor, ignore_index: int, token_weights: Tensor | None) -> None:
    if targets.shape != hidden.shape[:-1]:
        raise ArgumentError(
            "shape",
            _("targets have shape {targets_shape}; for hidden {hidden_shape} they must be {expected}").format(
                targets_shape=tuple(targets.shape), hidden_shape=tuple(hidden.shape), expected=tuple(hidden.shape[:-1])
            ),
        )
    if token_weights is not None and token_weights.shape != targets.shape:
        raise ArgumentError(
            "shape",
            _("token_weights have shape {token_weights_shape}, targets {targets_shape}: they must be equal").format(
                token_weights_shape=tuple(token_weights.shape), targets_shape=tuple(targets.shape)
            ),
        )
    if targets.device.type == "cpu" and targets.numel() and has_values(targets):
        wrong = (targets != ignore_index) & ((targets < 0) | (targets >= vocabulary))
        if bool(wrong.any()):
            value = int(targets[wrong][0])
            raise ArgumentError(
                "vocabulary",
                _("target id {value} is outside the vocabulary of {vocabulary}").format(
                    value=value, vocabulary=vocabulary
                ),
                fix=_("was the text encoded with another tokenizer?"),
            )

"""A model's matrix products and nothing else: the time that no implementation of it can beat on this machine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def matrix_products(model: nn.Module, tokens: int, dtype: torch.dtype, backward: bool) -> Callable[[], None]:
    """A function that multiplies ``tokens`` rows with the weight of every nn.Linear of the model, in dtype; with backward also the
    two products of its gradients (by the input and by the weight).

    Weights are the model's own size, one by one, as they must be read; inputs and outputs are written over, layer after layer,
    so that no time goes into fresh memory."""
    weights = [module.weight.detach().to(dtype) for module in model.modules() if isinstance(module, nn.Linear)]
    device = weights[0].device
    widths = {width for weight in weights for width in weight.shape}
    rows = {width: torch.randn(tokens, width, device=device).to(dtype) for width in widths}
    results = {width: torch.empty_like(value) for width, value in rows.items()}
    gradients = {weight.shape: torch.empty_like(weight) for weight in weights} if backward else {}

    def run() -> None:
        with torch.no_grad():
            for weight in weights:
                torch.mm(rows[weight.shape[1]], weight.t(), out=results[weight.shape[0]])
            if not backward:
                return
            for weight in reversed(weights):
                outputs, inputs = rows[weight.shape[0]], rows[weight.shape[1]]
                torch.mm(outputs, weight, out=results[weight.shape[1]])
                torch.mm(outputs.t(), inputs, out=gradients[weight.shape])

    return run

"""Weight-only int8: half the bytes of bf16 to read for each token, one scale an output row, activations untouched."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anymamba.errors import ArgumentError
from anymamba.language import _
from anymamba.models import plain
from anymamba.models.families import family_of
from anymamba.models.lm import LanguageModel
from anymamba.models.plain import Weights
from anymamba.models.trunk import adapters
from anymamba.models.trunk.stored_linear import StoredLinear
from anymamba.ops.projection import linear_int8


class QuantizedLinear(nn.Module):
    """y = x (weight * scale)^T + bias with int8 weight (out, in) and float32 scale (out,).

    Rows are rounded to nearest on a symmetric grid of 255 steps whose ends are the row's largest magnitude.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, compute_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        values = weight.detach().float()
        scale = values.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        self.register_buffer("weight", (values / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        self.compute_dtype = compute_dtype or weight.dtype

    def dequantized(self) -> Tensor:
        """The weight in the dtype of the activations."""
        return (self.weight.float() * self.scale[:, None]).to(self.compute_dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in). The weight is widened a tile at a time; a step of a few rows goes through the fused kernels instead."""
        return linear_int8(x, self.weight, self.scale, self.bias)


Stored = tuple[Tensor, "Tensor | None", "Tensor | None"]


def stored(linear: nn.Module) -> Stored:
    """Weight (out, in), scale (out,) of an int8 weight, bias (out,), adapters merged: what a fused step reads of a linear layer.

    Raises RuntimeError where the layer is more than that; ``watch.readable`` says so before.
    """
    if isinstance(linear, QuantizedLinear):
        return linear.weight, linear.scale, linear.bias
    if isinstance(linear, StoredLinear):
        return linear.weight, None, linear.bias
    taken, reason = adapters.merged(linear)
    if taken is None:
        raise RuntimeError(reason)
    return taken.weight.detach(), None, None if taken.bias is None else taken.bias.detach()


def quantize_int8(model: LanguageModel) -> LanguageModel:
    """Replaces the linear layers of the blocks that the family rounds and the head, in place, adapters merged. The embedding stays, so a
    tied head becomes its own.

    Raises ArgumentError naming a layer that is more than its weights: one with a hook, or in a wrapper.
    """
    kinds = family_of(model.config).layers(model.config)
    names = [f"backbone.layers.{index}.{layer.name}" for index, kind in enumerate(kinds) for layer in kind.linear_layers if layer.quantize]
    places = [(*name.rpartition(".")[::2], name) for name in [*names, "lm_head"]]
    owners = [(model.get_submodule(path), leaf, name) for path, leaf, name in places]
    taken = [_weights(owner, leaf, name) for owner, leaf, name in owners]  # all of them first: an error leaves the model as it was
    for (owner, leaf, __), (weight, bias) in zip(owners, taken):
        setattr(owner, leaf, QuantizedLinear(weight, bias, getattr(owner, leaf).weight.dtype))
    return model


def _weights(owner: nn.Module, leaf: str, place: str) -> Weights:
    taken, reason = adapters.merged(getattr(owner, leaf))
    if taken is None:
        raise ArgumentError(
            "module",
            _("{place} cannot be quantised: {reason}").format(place=place, reason=reason),
            why=_("its weight alone would not do what the module does"),
            fix=_("remove what was attached to it first"),
        )
    return taken


plain.computed_class(QuantizedLinear, lambda module: Weights(module.dequantized(), module.bias))

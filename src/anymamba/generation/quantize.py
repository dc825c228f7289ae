"""Weights alone are rounded, activations are not: int8, one scale an output row, or int4, a scale and a minimum for every 32 weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anymamba import announce
from anymamba.errors import ArgumentError
from anymamba.generation.rounding import nearest
from anymamba.generation.widths import WIDTHS as WIDTHS
from anymamba.language import _
from anymamba.models.families import family_of
from anymamba.models.lm import LanguageModel
from anymamba.models.plain import Weights
from anymamba.models.trunk import adapters
from anymamba.models.trunk.stored_linear import QuantizedLinear as QuantizedLinear
from anymamba.models.trunk.stored_linear import StoredEmbedding, StoredLinear
from anymamba.reference import blocks

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


def quantize(model: LanguageModel, width: str, numbers: Numbers | None = None) -> LanguageModel:
    """``width``: "int8" or "int4", see ``quantize_int8`` and ``quantize_int4``."""
    return quantize_int8(model) if width == "int8" else quantize_int4(model, numbers)


def quantize_int8(model: LanguageModel) -> LanguageModel:
    """Replaces the linear layers of the blocks that the family rounds and the head, in place, adapters merged. The embedding stays, so a
    tied head becomes its own.

    Raises ArgumentError naming a layer that is more than its weights: one with a hook, or in a wrapper.
    """
    for place in _places(model):
        setattr(place.owner, place.leaf, QuantizedLinear(place.weight, place.bias, place.weight.dtype))
    return model


def quantize_int4(model: LanguageModel, numbers: Numbers | None = None) -> LanguageModel:
    """The same in blocks of 32 four-bit numbers with a scale and a minimum (``anymamba.reference.blocks``, q4_1); activations become
    float32. The head, and an embedding that is tied to it, keep eight bits (q8_0): their rounding costs most and gains least. Rows
    that are no whole blocks are rounded to int8 instead, and one line says so.

    numbers(name, weight): a layer's matrix in blocks (None: each weight rounded to the nearest number; ``calibrate.py`` has better ones).
    Raises as ``quantize_int8``.
    """
    places, tied = _places(model), model.lm_head.weight is model.backbone.embeddings.weight
    model.float()
    others = []
    for place in places:
        columns = place.weight.shape[1]
        if columns % blocks.SIZE:
            others.append(place.name)
            setattr(place.owner, place.leaf, QuantizedLinear(place.weight, place.bias, torch.float32))
            continue
        if place.name == HEAD:
            matrix = blocks.packed(place.weight, "q8_0")
        else:
            matrix = (numbers or _nearest)(place.name, place.weight)
        setattr(place.owner, place.leaf, StoredLinear(matrix, columns, None if place.bias is None else place.bias.float()))
    if tied and isinstance(model.lm_head, StoredLinear):
        model.backbone.embeddings = StoredEmbedding(model.lm_head.weight, model.lm_head.in_features)  # type: ignore[assignment]
    if others:
        names = ", ".join(others[:3]) + (f", ... ({len(others)})" if len(others) > 3 else "")
        announce.once(_("in int8, for their rows are no whole blocks of 32: {names}").format(names=names))
    return model


HEAD = "lm_head"
Numbers = Callable[[str, Tensor], Tensor]


def _nearest(name: str, weight: Tensor) -> Tensor:
    return nearest(weight)


class _Place(NamedTuple):
    """A linear layer that is rounded: owner.leaf; weight, bias: with adapters merged."""

    name: str
    owner: nn.Module
    leaf: str
    weight: Tensor
    bias: Tensor | None


def _places(model: LanguageModel) -> list[_Place]:
    """All of them before any is changed: an error leaves the model as it was."""
    kinds = family_of(model.config).layers(model.config)
    names = [f"backbone.layers.{index}.{layer.name}" for index, kind in enumerate(kinds) for layer in kind.linear_layers if layer.quantize]
    places: list[_Place] = []
    for name in [*names, HEAD]:
        path, _dot, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        if any(place.owner is owner and place.leaf == leaf for place in places):  # several blocks share it
            continue
        places.append(_Place(name, owner, leaf, *_weights(owner, leaf, name)))
    return places


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

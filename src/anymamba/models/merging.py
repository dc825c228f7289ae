"""Adapters merged into the weights of a model: W + s B A as one weight, with what its rounding costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.models.lm import LanguageModel
from anymamba.models.trunk.linear import Linear
from anymamba.models.trunk.lora import adapted, merged_weight


@dataclass(frozen=True)
class Rounding:
    """What merging did. layers: merged. lost: of the change of all weights, root mean square, the share that rounding to the dtype took
    away or added; worst: the same of the layer where it is largest; largest: change of one weight by rounding."""

    layers: int
    dtype: str
    lost: float
    worst: float
    worst_layer: str
    largest: float


@torch.no_grad()
def merge(model: LanguageModel, dtype: torch.dtype | None = None) -> Rounding:
    """Puts linear layers without adapters in the place of those with, in place. Each weight is summed in float64 and rounded once.

    dtype: of the merged weights; None: that of the base's. Raises AnymambaError for a base whose weights are quantised.
    """
    layers = adapted(model)
    errors: dict[str, tuple[float, float]] = {}
    largest, name = 0.0, ""
    for path, layer in layers.items():
        base = layer.base_layer
        if not isinstance(base, nn.Linear):
            raise AnymambaError(
                "usage",
                _("{path} is a {kind}: adapters are merged into weights that are not quantised").format(
                    path=path, kind=type(base).__name__
                ),
                fix=_("load the model without quantize"),
            )
        exact = merged_weight(base.weight.double(), layer.acting())
        rounded = exact.to(dtype or base.weight.dtype)
        name = str(rounded.dtype).removeprefix("torch.")
        wrong = rounded.double() - exact
        change = exact - base.weight.double()
        errors[path] = float(wrong.square().sum()), float(change.square().sum())
        largest = max(largest, float(wrong.abs().max()))
        merged = Linear(base.in_features, base.out_features, bias=False, device="meta")
        merged.weight, merged.bias = nn.Parameter(rounded), base.bias
        owner, _dot, leaf = path.rpartition(".")
        setattr(model.get_submodule(owner) if owner else model, leaf, merged.train(layer.training))
    shares = {path: (wrong / max(change, 1e-300)) ** 0.5 for path, (wrong, change) in errors.items() if change}
    worst = max(shares, key=lambda path: shares[path], default="")
    total = [sum(column) for column in zip(*errors.values())] or [0.0, 0.0]
    lost = (total[0] / total[1]) ** 0.5 if total[1] else 0.0
    return Rounding(len(layers), name, lost, shares.get(worst, 0.0), worst, largest)

"""A linear layer with adapters beside its weight: LoRA (Hu et al. 2021) and DoRA (Liu et al. 2024, "DoRA", equation 5).

Other programs' layers of this kind, PEFT's, are read by ``adapters.py``; these are ours, and need no other package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anymamba.models import plain
from anymamba.models.plain import Weights
from anymamba.ops import low_rank
from anymamba.ops.low_rank import Change


class Adapter(nn.Module):
    """scaling * B A beside a weight (out, in): A (r, in), B (out, r), trained in float32.

    magnitude: (out,), DoRA's, the norms that the rows of the changed weight are given; None for LoRA. dropout: before A.
    """

    def __init__(self, A: Tensor, B: Tensor, scaling: float, dropout: float = 0.0, magnitude: Tensor | None = None) -> None:
        super().__init__()
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        self.magnitude = None if magnitude is None else nn.Parameter(magnitude)
        self.scaling, self.dropout = scaling, nn.Dropout(dropout)

    @classmethod
    def fresh(cls, layer: nn.Module, rank: int, scaling: float, dropout: float, dora: bool) -> Adapter:
        """A change that begins as nothing: B is zero, A uniform as PEFT draws it, the magnitude is that of the weight."""
        (rows, columns), device = shape_of(layer), layer.weight.device
        A = torch.empty(rank, columns, device=device, dtype=torch.float32)  # type: ignore[arg-type]
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))
        B = torch.zeros(rows, rank, device=device, dtype=torch.float32)  # type: ignore[arg-type]
        norms = low_rank.row_norms(base_weight(layer), []) if dora else None
        return cls(A, B, scaling, dropout, norms)

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    @property
    def change(self) -> Change:
        return Change(self.A, self.B, self.scaling)

    @property
    def drops(self) -> bool:
        """Whether dropout is more than the identity now."""
        return self.dropout.training and self.dropout.p > 0


class AdaptedLinear(nn.Module):
    """What ``base_layer`` gives for (..., in), and the changes of the adapters that are active: (..., out).

    base_layer: a linear layer, frozen, whose weight may be quantised. adapters: by name. active: the names of those that act, together.
    """

    active: tuple[str, ...]

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.adapters = nn.ModuleDict()
        self.active = ()

    @property
    def weight(self) -> Tensor:
        """The frozen weight, as the base layer stores it."""
        return self.base_layer.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias  # type: ignore[return-value]

    @property
    def in_features(self) -> int:
        return shape_of(self.base_layer)[1]

    @property
    def out_features(self) -> int:
        return shape_of(self.base_layer)[0]

    def acting(self) -> list[Adapter]:
        return [self.adapters[name] for name in self.active if name in self.adapters]  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        acting = self.acting()
        base, _ = plain.weights(self.base_layer)
        together = base is not None and not any(one.drops or one.magnitude is not None for one in acting)
        if together:
            assert base is not None
            return low_rank.linear(x, base.weight, base.bias, [one.change for one in acting])
        y: Tensor = self.base_layer(x)
        plain_y = y if self.bias is None else y - self.bias.to(y.dtype)
        for one in acting:
            dropped = one.dropout(x)
            if one.magnitude is None:
                y = low_rank.added(y, dropped, one.change)
            else:
                share = (one.magnitude / low_rank.row_norms(base_weight(self.base_layer), [one.change])).to(y.dtype)
                y = y + share * low_rank.added(plain_y, dropped, one.change) - plain_y
        return y

    def state(self) -> tuple[Any, ...]:
        """What decides, beside the values of its parameters, what it computes."""
        return self.active, [(one.scaling, one.drops) for one in self.acting()]

    @torch.no_grad()
    def merged(self) -> Weights:
        """One weight and bias with every active adapter in it, in float32 or better: in 16 bits a small change would be rounded away."""
        base, bias = base_weight(self.base_layer), self.bias
        wide = torch.promote_types(base.dtype, torch.float32)
        weight = merged_weight(base.to(wide), self.acting())
        return Weights(weight, None if bias is None else bias.to(wide, copy=True))


@torch.no_grad()
def merged_weight(base: Tensor, adapters: Sequence[Adapter]) -> Tensor:
    """base (out, in) with the changes in it, a new tensor in the dtype of base; the sums of a LoRA are those of ``addmm`` in it."""
    total = base.clone()
    for one in adapters:
        A, B = one.A.to(base), one.B.to(base)
        if one.magnitude is None:
            total.addmm_(B, A, alpha=one.scaling)
        else:
            changed = torch.addmm(base, B, A, alpha=one.scaling)
            norms = torch.linalg.vector_norm(changed, dim=1, keepdim=True)
            total += changed * (one.magnitude.to(base)[:, None] / norms) - base
    return total


def shape_of(layer: nn.Module) -> tuple[int, int]:
    """(out, in) of the matrix that a linear layer applies, in whichever form it stores it."""
    shape: tuple[int, int] = tuple(getattr(layer, "applied_shape", layer.weight.shape))  # type: ignore[assignment, arg-type, union-attr]
    return shape


def base_weight(layer: nn.Module) -> Tensor:
    """(out, in), widened where the layer keeps it quantised."""
    dequantized = getattr(layer, "dequantized", None)
    weight: Tensor = dequantized() if callable(dequantized) else layer.weight  # type: ignore[assignment]
    return weight


def adapted(model: nn.Module) -> dict[str, AdaptedLinear]:
    """Every layer with adapters, by its name in the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}

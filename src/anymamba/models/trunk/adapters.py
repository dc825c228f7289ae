"""Layers with LoRA, ours and PEFT's, taken in by fused paths instead of being refused (Hu et al. 2021, "LoRA", section 4.1).

y = W x + b + sum over adapters of scaling * B(A(dropout(x))). PEFT is never imported from here: if nobody has imported it, there are no
such layers. What a layer does beyond this formula (DoRA and other variants, mixed batches, dropout where it acts) is left to the layer.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anymamba.language import _
from anymamba.models import plain
from anymamba.models.plain import Weights
from anymamba.models.trunk.lora import AdaptedLinear
from anymamba.ops.low_rank import Change
from anymamba.ops.projection import linear


class Pair(NamedTuple):
    """One adapter: A: (rank, in); dropout: a module; B: (out, rank), bias: (out,) or None; scaling: their product's factor."""

    A: Tensor
    dropout: nn.Module
    B: Weights
    scaling: float


class LowRank(NamedTuple):
    """A linear layer and the adapters that act on it now."""

    base: Weights
    pairs: list[Pair]

    @property
    def changes(self) -> list[Change] | None:
        """What a product in one node takes; None where a pair is more: it has a bias, or its dropout acts."""
        if any(acts(pair.dropout) or pair.B.bias is not None for pair in self.pairs):
            return None
        return [Change(pair.A, pair.B.weight, pair.scaling) for pair in self.pairs]


def unwrapped(module: nn.Module) -> nn.Module:
    """The module that PEFT's ``modules_to_save`` runs in place of the one that it wraps; any other module itself."""
    kind = _peft("peft.utils.other", "ModulesToSaveWrapper")
    if kind is None or type(module) is not kind or plain.hooked(module) or "forward" in module.__dict__:
        return module
    wrapper: Any = module
    active = wrapper.active_adapters
    if wrapper.disable_adapters or not active or any(name not in wrapper._adapters for name in active):
        return wrapper.original_module
    return wrapper.modules_to_save[active[0]]


def low_rank(module: nn.Module, computed: bool = True) -> tuple[LowRank | None, str]:
    """A plain linear layer, or one with LoRA, as weights and low-rank pairs; or (None, why its forward has to be called).

    computed: whether a weight that is stored in another form, such as int8, may be computed for it.
    """
    module = unwrapped(module)
    if type(module) is AdaptedLinear:
        return _own(module, computed)
    kind = _peft("peft.tuners.lora.layer", "Linear")
    if kind is None or type(module) is not kind:
        base, reason = plain.weights(module)
        base = base or (plain.computed(module) if computed else None)
        return (None, reason) if base is None else (LowRank(base, []), "")
    try:
        return _lora(module)
    except (AttributeError, KeyError, TypeError) as error:
        return None, _("this version of PEFT is built differently: ") + f"{type(error).__name__}: {error}"


@torch.no_grad()
def merged(module: nn.Module) -> tuple[Weights | None, str]:
    """One weight and bias with every adapter in it, for steps without gradients; or (None, why not). In float32 at least where an adapter
    acts: in 16 bits a small change of a weight would be rounded away."""
    if type(module) is AdaptedLinear:
        return (None, reason) if (reason := _unfoldable(module)) else (module.merged(), "")
    taken, reason = _constant(module)
    if taken is None or not taken.pairs:
        return (None, reason) if taken is None else (taken.base, "")
    weight, bias = taken.base
    wide = torch.promote_types(weight.dtype, torch.float32)
    weight, bias = weight.to(wide, copy=True), None if bias is None else bias.to(wide, copy=True)
    for pair in taken.pairs:
        weight.addmm_(pair.B.weight.to(wide), pair.A.to(wide), alpha=pair.scaling)
        if pair.B.bias is not None:
            change = pair.B.bias.to(wide) * pair.scaling
            bias = change if bias is None else bias + change
    return Weights(weight, bias), ""


def foldable(module: nn.Module) -> tuple[Weights | None, str]:
    """Whether ``merged`` would do it, without its work: (the weight of the base layer and a bias where there would be one, "") or
    (None, why not)."""
    if type(module) is AdaptedLinear:
        reason = _unfoldable(module)
        return (None, reason) if reason else (Weights(module.weight, module.bias), "")
    taken, reason = _constant(module)
    if taken is None:
        return None, reason
    biases = [bias for bias in (taken.base.bias, *(pair.B.bias for pair in taken.pairs)) if bias is not None]
    return Weights(taken.base.weight, biases[0] if biases else None), ""


def _constant(module: nn.Module) -> tuple[LowRank | None, str]:
    """``low_rank`` of a layer whose adapters are the same at every step."""
    taken, reason = low_rank(module)
    for pair in () if taken is None else taken.pairs:
        if acts(pair.dropout):
            return None, _("its LoRA dropout is active (model.eval() ends that)")
    return taken, reason


def head_and_input(module: nn.Module, hidden: Tensor) -> tuple[Tensor | None, Tensor, str]:
    """(weight, input, "") with ``module(hidden) == input @ weight.T``, or (None, hidden, why the module has to be called).

    A bias becomes a column beside the weight and a one beside the input, a low-rank pair becomes ``rank`` columns and A(dropout(x)): so
    a loss that works on blocks of the vocabulary needs to know a matrix alone.
    """
    taken, reason = low_rank(module)
    if taken is None:
        return None, hidden, reason
    weights, inputs, bias = [taken.base.weight], [hidden], taken.base.bias
    for pair in taken.pairs:
        weights.append(pair.B.weight)
        inputs.append(linear(pair.dropout(hidden.to(pair.B.weight.dtype)), pair.A) * pair.scaling)
        if pair.B.bias is not None:
            change = pair.B.bias * pair.scaling
            bias = change if bias is None else bias + change
    if bias is not None:
        weights.append(bias[:, None])
        inputs.append(hidden.new_ones(*hidden.shape[:-1], 1))
    if len(weights) == 1:
        return weights[0], hidden, ""
    wide = weights[0].dtype
    for weight in weights[1:]:
        wide = torch.promote_types(wide, weight.dtype)
    return torch.cat([weight.to(wide) for weight in weights], 1), torch.cat([part.to(wide) for part in inputs], -1), ""


def acts(dropout: nn.Module) -> bool:
    """Whether the module is more than the identity now."""
    if plain.obstacle(dropout):
        return True
    return type(dropout) is nn.Dropout and dropout.training and dropout.p > 0


def elsewhere(module: Any, device: torch.device) -> str:
    """Where an acting LoRA adapter of this layer has its parameters, other than on this device; empty when it has none."""
    kind, layer = _peft("peft.tuners.lora.layer", "Linear"), module
    if kind is None or type(layer) is not kind or module.merged or module.disable_adapters:
        return ""
    acting = [part[name] for name in module.active_adapters for part in (module.lora_A, module.lora_B) if name in part]
    return ", ".join(sorted({str(part.weight.device) for part in acting if part.weight.device != device}))


def _obstacle(module: AdaptedLinear) -> str:
    """Why calling it may be more than its weights and adapters."""
    parts = [part for one in module.acting() for part in (one, one.dropout)]
    reasons = [plain.hooked(part) or (_("its forward was replaced") if "forward" in part.__dict__ else "") for part in (module, *parts)]
    return next(filter(None, reasons), "")


def _own(module: AdaptedLinear, computed: bool) -> tuple[LowRank | None, str]:
    reason = _obstacle(module)
    if reason:
        return None, reason
    base, reason = plain.weights(module.base_layer)
    base = base or (plain.computed(module.base_layer) if computed else None)
    if base is None:
        return None, _("its base layer: ") + reason
    if any(one.magnitude is not None for one in module.acting()):
        return None, _("a variant of LoRA: ") + "DoRA"
    pairs = [Pair(one.A, one.dropout, Weights(one.B), one.scaling) for one in module.acting()]
    return LowRank(base, pairs), ""


def _unfoldable(module: AdaptedLinear) -> str:
    """Why one weight cannot stand for it at every step."""
    reason = _obstacle(module)
    if reason:
        return reason
    if any(one.drops for one in module.acting()):
        return _("its LoRA dropout is active (model.eval() ends that)")
    reason = plain.weights(module.base_layer)[1]
    return _("its base layer: ") + reason if reason else ""


def _lora(module: Any) -> tuple[LowRank | None, str]:
    reason = plain.hooked(module) or (_("its forward was replaced") if "forward" in module.__dict__ else "")
    if reason:
        return None, reason
    base, reason = plain.weights(module.base_layer)
    if base is None:
        return None, _("its base layer: ") + reason
    if module.merged and module.disable_adapters:
        return None, _("its adapters are merged and disabled")
    if module.merged or module.disable_adapters:
        return LowRank(base, []), ""
    if module.fan_in_fan_out:
        return None, _("its weight is stored transposed")
    pairs = []
    for name in module.active_adapters:
        if name not in module.lora_A:
            continue
        if name in module.lora_variant:
            return None, _("a variant of LoRA: ") + type(module.lora_variant[name]).__name__
        B, reason = plain.weights(module.lora_B[name])
        reason = reason or plain.obstacle(module.lora_A[name]) or plain.hooked(module.lora_dropout[name])
        reason = reason or elsewhere(module, base.weight.device)
        if B is None or reason:
            return None, _("its adapter {name!r}: ").format(name=name) + reason
        pairs.append(Pair(module.lora_A[name].weight, module.lora_dropout[name], B, float(module.scaling[name])))
    return LowRank(base, pairs), ""


def _peft(module: str, name: str) -> type | None:
    loaded = sys.modules.get(module)
    return getattr(loaded, name, None)


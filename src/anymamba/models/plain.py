"""What a fused path may read of the modules that it replaces.

A fused path takes weights where the slow path calls modules. Both give the same only while a module does nothing but apply its weights:
a hook, an adapter or a wrapper that somebody put there would be passed over without a word. So every fused path asks here first, for each
module that it replaces, and lets the module itself run where the answer is no. The answer is never kept: asking costs a microsecond, and
a hook that is attached later counts from then on. ``watch.py`` asks for a whole model, ``adapters.py`` knows LoRA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils.hooks import RemovableHandle

from anymamba.language import _

Kind = TypeVar("Kind", bound=type[nn.Module])


class Weights(NamedTuple):
    """What a module applies: (out, in) of a linear layer, (channels, 1, width) of the convolution, (size,) of a norm."""

    weight: Tensor
    bias: Tensor | None = None


_forwards: dict[type, Callable[..., Any]] = {
    kind: kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Embedding, nn.ModuleList, nn.Identity, nn.Dropout)
}
"""The classes whose forward the fused paths know, with the forward that they know."""

_computed: dict[type, Callable[[Any], Weights]] = {}
"""Classes that compute the weight that they apply."""

_call = nn.Module.__call__


def plain_class(kind: Kind) -> Kind:
    """Decorator: fused paths know what this class's ``forward`` does."""
    _forwards[kind] = kind.forward
    return kind


def computed_class(kind: type[nn.Module], function: Callable[[Any], Weights]) -> None:
    """Fused paths know that this class's forward applies ``function(module)``."""
    _forwards[kind] = kind.forward
    _computed[kind] = function


def obstacle(module: nn.Module) -> str:
    """Why ``module(x)`` may be more than what its class does with its weights; empty when it is not."""
    kind = type(module)
    forward = _forwards.get(kind)
    if forward is None:
        return _("it is a {kind}").format(kind=kind.__name__)
    return _changed(module, kind, forward) or hooked(module)


def weights(module: nn.Module) -> tuple[Weights | None, str]:
    """(what the module applies, "") or (None, why its forward has to be called). Differentiable; weight norm and other parametrisations
    are computed anew, once a call, as its forward does."""
    kind = type(module)
    forward = _forwards.get(kind)
    if forward is None:
        base = parametrised(module)
        if base is None:
            return None, _("it is a {kind}").format(kind=kind.__name__)
        forward = _forwards[base]
    reason = _changed(module, kind, forward)
    if reason:
        return None, reason
    reason = hooked(module)
    if reason:
        computed = _weight_norm(module)
        return (None, reason) if computed is None else (Weights(computed, getattr(module, "bias", None)), "")
    if kind in _computed:  # its own product is the fast one; a loss, which needs the weight, asks ``computed``
        return None, _("it is a {kind}").format(kind=kind.__name__)
    plain_weights = Weights(module.weight, getattr(module, "bias", None))  # type: ignore[arg-type]
    reason = own_products(plain_weights.weight)
    return (None, reason) if reason else (plain_weights, "")


def computed(module: nn.Module) -> Weights | None:
    """The weights of a module that computes them, where it is nothing more."""
    function = _computed.get(type(module))
    return None if function is None or obstacle(module) else function(module)


def weights_of(owner: nn.Module, *names: str) -> tuple[list[Weights], str]:
    """``weights`` of several modules of one, or ([], the first reason why not)."""
    result = []
    for name in names:
        one, reason = weights(getattr(owner, name))
        if one is None:
            return [], f"{name}: {reason}"
        result.append(one)
    return result, ""


def read(module: nn.Module) -> Weights:
    """``weights``, where they were asked for before: raises RuntimeError with the reason instead."""
    plain_weights, reason = weights(module)
    if plain_weights is None:
        raise RuntimeError(reason)
    return plain_weights


def known(module: nn.Module) -> bool:
    """Whether it is of a class that fused paths know, parametrised or not."""
    return type(module) in _forwards or parametrised(module) is not None


def hooks_registered() -> int:
    """Grows with every hook that is registered anywhere in the process."""
    return RemovableHandle.next_id


def parametrised(module: nn.Module) -> type | None:
    """The class under the one that ``torch.nn.utils.parametrize`` made of it."""
    if "parametrizations" not in module._modules:
        return None
    base = type(module).__mro__[1]
    return base if base in _forwards else None


def _changed(module: nn.Module, kind: type, forward: Callable[..., Any]) -> str:
    if "forward" in module.__dict__ or kind.forward is not forward:  # type: ignore[attr-defined]
        return _("its forward was replaced")
    if nn.Module.__call__ is not _call and not torch.compiler.is_compiling():  # torch.export replaces it
        return _("nn.Module.__call__ was replaced")
    return ""


def hooked(module: nn.Module) -> str:
    if module._forward_hooks:
        return _("it has a forward hook")
    if module._forward_pre_hooks:
        return _("it has a forward pre-hook")
    if module._backward_hooks or module._backward_pre_hooks:
        return _("it has a backward hook")
    if (
        global_hooks._global_forward_hooks or global_hooks._global_forward_pre_hooks
        or global_hooks._global_backward_hooks or global_hooks._global_backward_pre_hooks
    ):  # fmt: skip
        return _("a hook is registered for all modules")
    return ""


def _weight_norm(module: nn.Module) -> Tensor | None:
    """The weight that torch's older ``weight_norm`` computes in a pre-hook, when that is the only hook."""
    hooks = list(module._forward_pre_hooks.values())
    others = module._forward_hooks or module._backward_hooks or module._backward_pre_hooks
    if len(hooks) != 1 or others or type(hooks[0]) is not WeightNorm or hooks[0].name != "weight":
        return None
    return None if global_hooks._global_forward_hooks or global_hooks._global_forward_pre_hooks else hooks[0].compute_weight(module)


def own_products(weight: Tensor) -> str:
    """Why a product with this weight is its own affair, as those of quantised and of distributed tensors are; empty when it is plain."""
    kind = type(weight)
    # while a graph is captured, tensors that only stand for plain ones
    if kind is nn.Parameter or kind is Tensor or kind.__name__ in ("FakeTensor", "FunctionalTensor") or torch.compiler.is_compiling():
        return ""
    return _("its weight is a {kind}").format(kind=kind.__name__)

"""Whether the weights of a whole model are all that there is to it: for fused steps and captured graphs, which no module runs in.

``readable`` says yes or names the module that says no; ``Watch`` notices when the answer, or a weight, has changed since.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

from anymamba.language import _
from anymamba.models import plain
from anymamba.models.trunk import adapters
from anymamba.models.trunk.lora import AdaptedLinear

_CONSTANT = tuple(
    getattr(parametrizations, name) for name in ("_WeightNorm", "_Orthogonal") if hasattr(parametrizations, name)
)
"""Parametrisations that are a function of their parameters alone."""


def readable(model: nn.Module) -> tuple[bool, str]:
    """(True, "") when every module is plain, or has adapters that can be merged; else (False, "NAME: why not")."""
    reason = plain.obstacle(model)
    if reason:
        return False, f"{type(model).__name__}: {reason}"
    shapes = _shapes(model)
    for name, module in _modules("", model):
        reason = _reason(name, module, shapes)
        if reason:
            return False, f"{name or type(model).__name__}: {reason}"
    return True, ""


class Watch:
    """What a stepper found when it was made. values: it has copies of weights, so that a change of a weight counts too (one that torch
    records, or another tensor put in its place through ``.data``; not what is written into ``.data``)."""

    def __init__(self, model: nn.Module, values: bool = True) -> None:
        self._model = model
        modules = list(model.modules())
        self._hooks = plain.hooks_registered()
        self._children = [module._modules for module in modules if module._modules]
        self._modules = _values(self._children)
        self._names = [module.__dict__ for module in modules]
        self._forwards = ["forward" in names for names in self._names]
        self._adapted = [module for module in modules if hasattr(module, "merged_adapters") or isinstance(module, AdaptedLinear)]
        self._adapters = list(map(_adapter_state, self._adapted))
        self._own = [module._parameters for module in modules if module._parameters]
        self._parameters = _values(self._own)
        # a tensor made in inference mode has no version
        parameters = [tensor for tensor in self._parameters if tensor is not None and not tensor.is_inference()]
        self._values = parameters if values else []
        self._versions, self._addresses = list(map(_version, self._values)), list(map(torch.Tensor.data_ptr, self._values))

    def changed(self) -> bool:
        """Tens of microseconds for a model of 24 layers."""
        if plain.hooks_registered() != self._hooks:
            if not readable(self._model)[0]:
                return True
            self._hooks = plain.hooks_registered()
        return (
            not _same(_values(self._children), self._modules)
            or ["forward" in names for names in self._names] != self._forwards
            or not _same(_values(self._own), self._parameters)
            or list(map(_version, self._values)) != self._versions
            or list(map(torch.Tensor.data_ptr, self._values)) != self._addresses
            or (bool(self._adapted) and list(map(_adapter_state, self._adapted)) != self._adapters)
        )


_version = operator.attrgetter("_version")


def _values(dictionaries: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [value for dictionary in dictionaries for value in dictionary.values()]


def _same(now: list[Any], before: list[Any]) -> bool:
    """By identity: tensors would be compared number by number."""
    return len(now) == len(before) and all(map(operator.is_, now, before))


def _adapter_state(module: Any) -> tuple[Any, ...]:
    if isinstance(module, AdaptedLinear):
        return module.state()
    active = module.active_adapters
    return (
        list(module.merged_adapters), bool(module.disable_adapters), list(active), dict(getattr(module, "scaling", {})),
        [adapters.acts(part) for part in getattr(module, "lora_dropout", {}).values()],
    )  # fmt: skip


def _modules(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module with its name, but not those inside an adapter or a parametrisation: they are the leaf's own affair."""
    yield name, module
    if plain.known(module) and not isinstance(module, nn.Linear):
        for child, value in module._modules.items():
            if value is not None and child != "parametrizations":
                yield from _modules(f"{name}.{child}" if name else child, value)


def _reason(name: str, module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> str:
    shape = shapes.get(f"{name}.weight")
    varying = _varying(module)
    if varying:
        return varying
    obstacle = plain.obstacle(module)
    if shape is None:
        return "" if plain.parametrised(module) else obstacle
    if obstacle:
        weights, reason = adapters.foldable(module) if len(shape) == 2 else plain.weights(module)
        if weights is None:
            return reason
        weight: Any = weights.weight
        bias: Any = weights.bias
    else:
        weight, bias = module.weight, getattr(module, "bias", None)
        reason = plain.own_products(weight)
        if reason:
            return reason
    applied = tuple(getattr(module, "applied_shape", weight.shape))  # weights in blocks are bytes
    if applied != shape:
        return _("its weight is {shape}, not {expected}").format(shape=applied, expected=shape)
    if (bias is not None) != (f"{name}.bias" in shapes):
        return _("its bias is not what the configuration says")
    if isinstance(module, nn.Conv1d) and (module.stride, module.dilation, module.padding) != ((1,), (1,), (0,)):
        return _("a convolution with other stride, dilation or padding")
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return _("an embedding with max_norm changes its rows when it is read")
    return ""


def _varying(module: nn.Module) -> str:
    """Why a parametrised value may be another one at the next step."""
    parametrised = module._modules.get("parametrizations")
    for functions in () if parametrised is None else parametrised.children():
        for function in functions.children():
            if not isinstance(function, _CONSTANT):
                kind = type(function).__name__
                return _("it is parametrised by {kind}, which may not be constant").format(kind=kind)
    return ""


_known_shapes: dict[str, dict[str, tuple[int, ...]]] = {}


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of the parameters that the configuration asks for, by name."""
    config: Any = model.config
    key = f"{type(model).__name__} {config!r}"
    if key not in _known_shapes:
        with torch.device("meta"):
            fresh = type(model)(config)
        _known_shapes[key] = {name: tuple(parameter.shape) for name, parameter in fresh.named_parameters(remove_duplicate=False)}
    return _known_shapes[key]

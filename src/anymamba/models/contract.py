"""The contract of a model family: each rule is checked before a family is used, and a family that breaks one is named with the rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.models.config import Config
from anymamba.models.family import Family, LayerKind
from anymamba.models.hub.names import TensorNames
from anymamba.models.trunk.mixer import Mixer
from anymamba.models.trunk.state import State


def check(family: Any, where: str, name: str | None = None) -> None:
    """Raises AnymambaError with the first rule that it breaks. where: its module. name: by which it was asked for."""
    for holds, rule in _rules(family, name):
        if not holds:
            raise broken(where, rule)


def check_model(family: Family[Any], config: Config, model: nn.Module) -> None:
    """The rules of a model as made from a configuration: linear layers, states, names. Raises AnymambaError."""
    blocks: Any = model.get_submodule("backbone.layers")
    for kind, block in dict(zip(family.layers(config), blocks)).items():
        for holds, rule in _block_rules(kind, config, block):
            if not holds:
                raise broken(kind.mixer.__module__, rule)
    names = TensorNames(family, config)
    for name in model.state_dict():
        if names.ours(names.saved(name)) != name:
            raise broken(
                family.config.__module__,
                _("names lead back: {name} is saved as {saved}, which is read as {ours}").format(
                    name=name, saved=names.saved(name), ours=names.ours(names.saved(name))
                ),
            )


def broken(where: str, rule: str) -> AnymambaError:
    """The error for a family of module ``where`` that does not keep this rule."""
    return AnymambaError(
        "family",
        _("the model family in {where} breaks the contract of families").format(where=where),
        why=_("the rule: ") + rule,
        fix=_("see anymamba/models/family.py, or tell its author"),
    )


def _rules(family: Any, name: str | None) -> Iterator[tuple[bool, str]]:
    """(whether it is kept, the rule). Later rules build on earlier ones."""
    yield isinstance(family, Family), _("the file ends in FAMILY = Family(...)")
    config = family.config
    whole = isinstance(config, type) and issubclass(config, Config) and dataclasses.is_dataclass(config)
    yield whole, _("FAMILY.config is a dataclass that derives from Config")
    for field in ("model_type", "architecture"):
        own = isinstance(vars(config).get(field), str)
        yield own, _("{config} has a {field} of its own").format(config=config.__name__, field=field)
    if name is not None:
        same = config.model_type == name
        yield same, _("{name!r} is its model_type, not {model_type!r}").format(name=name, model_type=config.model_type)
    yield bool(family.sizes), _("sizes has one size at least")
    for size, fields in family.sizes.items():
        unknown = sorted(set(fields) - {one.name for one in dataclasses.fields(config)})
        yield (
            not unknown,
            _("size {size!r} has fields of the configuration only: {unknown}").format(size=size, unknown=unknown),
        )
    small = config(**next(iter(family.sizes.values())))
    yield (
        config.from_dict(small.to_dict()).to_dict() == small.to_dict(),
        _("{config}.from_dict reads what to_dict writes").format(config=config.__name__),
    )
    kinds = list(family.layers(small))
    right = len(kinds) == small.num_hidden_layers and all(isinstance(kind, LayerKind) for kind in kinds)
    yield right, _("layers returns one LayerKind for each of num_hidden_layers")
    for kind in dict.fromkeys(kinds):
        mixer = kind.mixer
        yield (
            isinstance(mixer, type) and issubclass(mixer, Mixer),
            _("{getattr} derives from Mixer").format(getattr=getattr(mixer, "__name__", mixer)),
        )
        for method in ("forward", "init_parameters", "make_state"):
            defined = any(method in vars(parent) for parent in mixer.__mro__[: mixer.__mro__.index(Mixer)])
            yield defined, _("{mixer} defines {method}").format(mixer=mixer.__name__, method=method)


def _block_rules(kind: LayerKind[Any], config: Config, block: nn.Module) -> Iterator[tuple[bool, str]]:
    layers = {name for name, module in block.named_modules() if isinstance(module, nn.Linear)}
    stated = {layer.name for layer in kind.linear_layers}
    odd = ", ".join(sorted(stated - layers))
    yield not odd, _("linear_layers are linear layers of the block, not {odd}").format(odd=odd)
    odd = ", ".join(sorted(layers - stated))
    yield not odd, _("linear_layers has every linear layer of the block, {odd} too").format(odd=odd)
    state = kind.mixer.make_state(config, 3, "meta", torch.float32)
    yield isinstance(state, State), _("make_state returns a State")
    shapes = [tuple(tensor.shape) for tensor in state.tensors().values()]
    right = bool(shapes) and all(shape[:1] == (3,) for shape in shapes)
    yield right, _("a state of 3 rows has tensors with 3 first, not {shapes}").format(shapes=shapes)

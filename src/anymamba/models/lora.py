"""Which linear layers of a model get adapters, and adapters put there: LoRA (Hu et al. 2021), DoRA (Liu et al. 2024)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.models.config import Config
from anymamba.models.families import family_of
from anymamba.models.lm import LanguageModel
from anymamba.models.lora_options import DEFAULT_RANK as DEFAULT_RANK
from anymamba.models.lora_options import LoraOptions as LoraOptions
from anymamba.models.trunk.lora import AdaptedLinear, Adapter, adapted

ATTENTION = frozenset(("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "kv_proj"))
"""Names of linear layers of attention, in every family that has some."""

GROUPS = ("attention", "mlp", "all")


def linear_layers(config: Config) -> dict[str, bool]:
    """Every linear layer of a model, by its name in it -> whether an adapter goes there unless targets are named."""
    found: dict[str, bool] = {}
    for index, kind in enumerate(family_of(config).layers(config)):
        found.update({f"backbone.layers.{index}.{layer.name}": layer.lora for layer in kind.linear_layers})
    return {**found, "lm_head": False}


def chosen_layers(config: Config, targets: str) -> list[str]:
    """The names in the model of the layers that these targets (see ``LoraOptions``) mean.

    Raises AnymambaError for a target that is no layer of this model, listing those there are.
    """
    layers = linear_layers(config)
    if not targets.strip():
        return [name for name, usual in layers.items() if usual]
    chosen: set[str] = set()
    for target in filter(None, (part.strip() for part in targets.split(","))):
        found = [name for name in layers if _means(target, name)]
        if not found:
            raise _no_such_layer(config, target, layers)
        chosen.update(found)
    return [name for name in layers if name in chosen]


def leaves(names: list[str]) -> list[str]:
    """The last parts of these names, each once: what PEFT's ``target_modules`` holds."""
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))


def check(config: Config, options: LoraOptions) -> list[str]:
    """The layers that get adapters. Raises AnymambaError for a rank or a share that cannot be, and for unknown targets."""
    if options.rank < 1:
        raise AnymambaError(
            "usage",
            _("--lora {rank}: the rank must be at least 1").format(rank=options.rank),
            fix=_("a rank of 8 to 64 is usual; leave --lora out to train all weights"),
        )
    if not 0 <= options.dropout < 1 or options.alpha < 0:
        raise AnymambaError("usage", _("--lora-dropout must be at least 0 and below 1, --lora-alpha not negative"))
    return chosen_layers(config, options.targets)


def attach(model: LanguageModel, options: LoraOptions, name: str = "default") -> list[str]:
    """Freezes the model and puts fresh, active adapters of this name beside the layers that are meant; their names. The results of the
    model are what they were, to the rounding of the layers."""
    model.requires_grad_(False)
    names = check(model.config, options)
    for path in names:
        layer = at(model, path)
        layer.adapters[name] = Adapter.fresh(layer.base_layer, options.rank, options.scaling, options.dropout, options.dora)
    activate(model, [name])
    return names


def at(model: nn.Module, path: str) -> AdaptedLinear:
    """The layer with adapters of that name; a layer without becomes one."""
    layer = model.get_submodule(path)
    if isinstance(layer, AdaptedLinear):
        return layer
    owner, _, leaf = path.rpartition(".")
    wrapped = AdaptedLinear(layer).train(layer.training)
    setattr(model.get_submodule(owner) if owner else model, leaf, wrapped)
    return wrapped


def activate(model: nn.Module, names: list[str]) -> None:
    """From now on the adapters of these names act, together; none: the model is as it was without them.

    Raises AnymambaError for a name that no layer has an adapter of.
    """
    there = adapter_names(model)
    for name in names:
        if name not in there:
            raise AnymambaError(
                "usage", _("there is no adapter {name!r}").format(name=name), fix=_("known: ") + (", ".join(there) or _("none"))
            )
    for layer in adapted(model).values():
        layer.active = tuple(names)


def adapter_names(model: nn.Module) -> list[str]:
    """The names of the adapters that a model has."""
    return list(dict.fromkeys(name for layer in adapted(model).values() for name in layer.adapters))


def adapters_of(model: nn.Module, name: str) -> dict[str, Adapter]:
    """The adapters of that name, by the name of their layer."""
    found: Mapping[str, AdaptedLinear] = adapted(model)
    return {path: layer.adapters[name] for path, layer in found.items() if name in layer.adapters}  # type: ignore[misc]


def narrow_frozen_layers(model: nn.Module, dtype: torch.dtype) -> None:
    """Keeps the frozen weights of the linear layers of the blocks in ``dtype``: that of their products, which are the same then, in half
    the memory. Norms, convolutions, A and D stay as they are, and so do embedding and head."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and ".layers." in f".{path}" and not module.weight.requires_grad:
            module.weight.data = module.weight.data.to(dtype)


def _means(target: str, name: str) -> bool:
    leaf = name.rpartition(".")[2]
    if target == "all":
        return name != "lm_head"
    if target == "attention":
        return leaf in ATTENTION
    if target == "mlp":
        return re.search(r"\.mlp\.|\.experts?\.", name) is not None
    return name == target or name.endswith(f".{target}")


def _no_such_layer(config: Config, target: str, layers: Mapping[str, bool]) -> AnymambaError:
    groups = [group for group in GROUPS if any(_means(group, name) for name in layers)]
    return AnymambaError(
        "usage",
        _("--lora-targets {target}: a {family} model has no such layer").format(target=target, family=config.model_type),
        why=_("it has: ") + ", ".join(leaves(list(layers))),
        fix=_("name some of these, or a group of them: ") + ", ".join(groups),
    )

"""The contract of a model family: each rule is checked before a family is used, and a family that breaks one is named with the rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from anymamba.errors import AnymambaError
from anymamba.language import say
from anymamba.models.config import Config
from anymamba.models.family import Family, LayerKind
from anymamba.models.names import TensorNames
from anymamba.models.trunk.mixer import Mixer
from anymamba.models.trunk.state import State


def check(family: Any, where: str, name: str | None = None) -> None:
    """Raises AnymambaError with the first rule that it breaks. where: its module. name: by which it was asked for."""
    for kept, rule in _rules(family, name):
        if not kept:
            raise broken(where, rule)


def check_model(family: Family[Any], config: Config, model: nn.Module) -> None:
    """The rules of a model as made from a configuration: linear layers, states, names. Raises AnymambaError."""
    blocks: Any = model.get_submodule("backbone.layers")
    for kind, block in dict(zip(family.layers(config), blocks)).items():
        for kept, rule in _block_rules(kind, config, block):
            if not kept:
                raise broken(kind.mixer.__module__, rule)
    names = TensorNames(family, config)
    for name in model.state_dict():
        if names.ours(names.saved(name)) != name:
            raise broken(
                family.config.__module__,
                say(
                    f"names lead back: {name} is saved as {names.saved(name)}, which is read as {names.ours(names.saved(name))}",
                    f"names 可逆：{name} 保存为 {names.saved(name)}，却读作 {names.ours(names.saved(name))}",
                ),
            )


def broken(where: str, rule: str) -> AnymambaError:
    """The error for a family of module ``where`` that does not keep this rule."""
    return AnymambaError(
        "family",
        say(f"the model family in {where} breaks the contract of families", f"{where} 中的模型系列违反了系列约定"),
        why=say("the rule: ", "规则：") + rule,
        fix=say("see anymamba/models/family.py, or tell its author", "见 anymamba/models/family.py，或告知其作者"),
    )


def _rules(family: Any, name: str | None) -> Iterator[tuple[bool, str]]:
    """(whether it is kept, the rule). Later rules build on earlier ones."""
    yield isinstance(family, Family), say("the file ends in FAMILY = Family(...)", "文件以 FAMILY = Family(...) 结尾")
    config = family.config
    whole = isinstance(config, type) and issubclass(config, Config) and dataclasses.is_dataclass(config)
    yield whole, say("FAMILY.config is a dataclass that derives from Config", "FAMILY.config 是继承自 Config 的 dataclass")
    for field in ("model_type", "architecture"):
        own = isinstance(vars(config).get(field), str)
        yield own, say(f"{config.__name__} has a {field} of its own", f"{config.__name__} 有自己的 {field}")
    if name is not None:
        same = config.model_type == name
        yield same, say(f"{name!r} is its model_type, not {config.model_type!r}", f"{name!r} 即其 model_type，而非 {config.model_type!r}")
    yield bool(family.sizes), say("sizes has one size at least", "sizes 至少有一种规模")
    for size, fields in family.sizes.items():
        unknown = sorted(set(fields) - {one.name for one in dataclasses.fields(config)})
        yield not unknown, say(f"size {size!r} has fields of the configuration only: {unknown}", f"规模 {size!r} 只含配置的字段：{unknown}")
    small = config(**next(iter(family.sizes.values())))
    yield config.from_dict(small.to_dict()).to_dict() == small.to_dict(), say(
        f"{config.__name__}.from_dict reads what to_dict writes", f"{config.__name__}.from_dict 能读回 to_dict 的内容"
    )
    kinds = list(family.layers(small))
    right = len(kinds) == small.num_hidden_layers and all(isinstance(kind, LayerKind) for kind in kinds)
    yield right, say("layers returns one LayerKind for each of num_hidden_layers", "layers 为每一层返回一个 LayerKind")
    for kind in dict.fromkeys(kinds):
        mixer = kind.mixer
        yield isinstance(mixer, type) and issubclass(mixer, Mixer), say(
            f"{getattr(mixer, '__name__', mixer)} derives from Mixer", f"{getattr(mixer, '__name__', mixer)} 继承自 Mixer"
        )
        for method in ("forward", "init_parameters", "make_state"):
            defined = any(method in vars(parent) for parent in mixer.__mro__[: mixer.__mro__.index(Mixer)])
            yield defined, say(f"{mixer.__name__} defines {method}", f"{mixer.__name__} 定义了 {method}")


def _block_rules(kind: LayerKind[Any], config: Config, block: nn.Module) -> Iterator[tuple[bool, str]]:
    layers = {name for name, module in block.named_modules() if isinstance(module, nn.Linear)}
    stated = {layer.name for layer in kind.linear_layers}
    odd = ", ".join(sorted(stated - layers))
    yield not odd, say(f"linear_layers are linear layers of the block, not {odd}", f"linear_layers 是块中的线性层，{odd} 不是")
    odd = ", ".join(sorted(layers - stated))
    yield not odd, say(f"linear_layers has every linear layer of the block, {odd} too", f"linear_layers 列出块中所有线性层，包括 {odd}")
    state = kind.mixer.make_state(config, 3, "meta", torch.float32)
    yield isinstance(state, State), say("make_state returns a State", "make_state 返回 State")
    shapes = [tuple(tensor.shape) for tensor in state.tensors().values()]
    right = bool(shapes) and all(shape[:1] == (3,) for shape in shapes)
    yield right, say(f"a state of 3 rows has tensors with 3 first, not {shapes}", f"3 行的状态，其张量首轴为 3，而非 {shapes}")

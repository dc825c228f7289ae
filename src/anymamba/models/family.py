"""What a model family is: one ``Family`` says all that anything else needs to know of it, so that nothing branches on a family's name.

A family's file ends in ``FAMILY = Family(...)``. A model is an embedding, blocks, a norm and a head (``lm.py``); the family says how its
configuration reads, of which kinds its blocks are, which sizes it can begin with, and what its tensors are called in other programs' files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import nn

from anymamba.models.config import Config
from anymamba.models.trunk.fused_step import Recurrence
from anymamba.models.trunk.mixer import Mixer

C = TypeVar("C", bound=Config)

Names = tuple[tuple[str, str], ...]
"""Pairs (part of a tensor's name in a Hugging Face checkpoint, the same in our model)."""


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer of a block. name: in the block, such as "mixer.in_proj".

    quantize: int8 keeps its weight in a byte. lora: an adapter goes there unless targets are named, for every program that reads PEFT's
    format lets it act (ours act on every linear layer). residual: what it returns is added to the residual stream, so
    fresh weights are scaled down with depth.
    """

    name: str
    quantize: bool = True
    lora: bool = True
    residual: bool = False


@dataclass(frozen=True)
class Stack:
    """A tensor of ours that is many tensors in a Hugging Face checkpoint, such as the weights of all experts. ours: its name in the block.
    saved: the names there, with {} for the index along the first axis, such as "moe.experts.{}.up_proj.weight". part, parts: where several
    lie beside one another along the second axis, which of how many this is.
    """

    ours: str
    saved: str
    part: int = 0
    parts: int = 1

    def place(self, index: int, rows: int) -> tuple[int, slice]:
        """Where the tensor of that index lies in ours, whose second axis has so many rows."""
        size = rows // self.parts
        return index, slice(self.part * size, (self.part + 1) * size)


@dataclass(frozen=True)
class LayerKind(Generic[C]):
    """One kind of block: norm and mixer, and where there is an mlp, norm and MLP after them; each adds to the residual stream.

    mixer: any module that keeps to ``Mixer``. linear_layers: every one in the block. mlp: makes the MLP of a configuration.
    fused_step: what a fused decoding step reads, for mixers that have one. names: of tensors in the block, where a Hugging Face checkpoint
    has others, such as ("input_layernorm.", "norm."). stacks: tensors that are many there.
    aside: makes a module (stream, embedded text, mask, documents, state) -> (batch, length, d_model); what it returns is added to the
    stream for the norm alone.
    """

    mixer: type[Mixer[Any]]
    linear_layers: tuple[LinearLayer, ...]
    mlp: Callable[[C], nn.Module] | None = None
    fused_step: Callable[[C], Recurrence] | None = None
    names: Names = ()
    stacks: tuple[Stack, ...] = ()
    aside: Callable[[C], nn.Module] | None = None


@dataclass(frozen=True)
class OriginalForm:
    """A checkpoint form other than Hugging Face's. file: its configuration's, JSON. recognises: whether such a content is of this form.

    config: from that content; raises UnsupportedError naming a field that no model of ours has. name: for the list in an error.
    """

    name: str
    file: str
    recognises: Callable[[dict[str, Any]], bool]
    config: Callable[[dict[str, Any]], Config]


@dataclass(frozen=True)
class Family(Generic[C]):
    """config: the class of its configuration, whose ``model_type`` is the family's name. layers: the kind of every block, in order.

    sizes: what ``--size`` takes, name -> fields of the configuration, the smallest first. vocabulary_multiple: to which a fresh model's
    vocabulary is rounded up. names: of tensors outside the blocks, and of the blocks themselves, where a Hugging Face checkpoint has
    others, such as ("model.layers.", "backbone.layers."). originals: other checkpoint forms it is read from.
    ignored: beginnings of the names of tensors in a checkpoint that the model does without. tie: puts one module in place of
    several among the blocks, where they share it.
    """

    config: type[C]
    layers: Callable[[C], Sequence[LayerKind[C]]]
    sizes: Mapping[str, Mapping[str, Any]]
    vocabulary_multiple: int = 16
    names: Names = ()
    originals: tuple[OriginalForm, ...] = ()
    ignored: tuple[str, ...] = ()
    tie: Callable[[C, Sequence[nn.Module]], None] | None = None

    @property
    def name(self) -> str:
        return self.config.model_type

    def kinds(self, config: C) -> list[LayerKind[C]]:
        """The different kinds of its blocks."""
        return list(dict.fromkeys(self.layers(config)))

    def lora_targets(self, config: C) -> list[str]:
        """The linear layers of its blocks whose adapters act in every program, as PEFT's ``target_modules`` takes them."""
        layers = [layer for kind in self.kinds(config) for layer in kind.linear_layers if layer.lora]
        return list(dict.fromkeys(layer.name.rpartition(".")[2] for layer in layers))


def alike(kind: LayerKind[C]) -> Callable[[C], Sequence[LayerKind[C]]]:
    """``layers`` of a family whose blocks are all of one kind."""
    return lambda config: [kind] * config.num_hidden_layers

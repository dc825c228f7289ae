"""What the tensors of a model are called in a Hugging Face checkpoint, by the pairs that its family states."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from anymamba.models.config import Config
from anymamba.models.family import Family, LayerKind, Names, Stack
from anymamba.models.hub import original

_BLOCK = re.compile(r"(backbone\.layers\.(\d+)\.)(.*)", re.DOTALL)


class TensorNames:
    """Both ways, for a model of this configuration."""

    def __init__(self, family: Family[Any], config: Config) -> None:
        self._outside = family.names
        self._kinds: list[LayerKind[Any]] = list(family.layers(config))

    def ours(self, saved: str) -> str:
        """A name in a checkpoint, Hugging Face's or original, -> the name in our model."""
        name = _renamed(saved, self._outside)
        block = _BLOCK.fullmatch(name)
        if block and int(block[2]) < len(self._kinds):
            kind = self._kinds[int(block[2])]
            stack = _stack_of(kind, block[3])
            name = block[1] + (_renamed(block[3], kind.names) if stack is None else stack[0].ours)
        return original.rename(name)

    def place(self, saved: str) -> tuple[Stack, int] | None:
        """Of a tensor that is a part of one of ours: which part."""
        block = _BLOCK.fullmatch(_renamed(saved, self._outside))
        return _stack_of(self._kinds[int(block[2])], block[3]) if block and int(block[2]) < len(self._kinds) else None

    def saved(self, ours: str) -> str:
        """A name in our model -> the name in the checkpoint that we write, the first of them where they are many."""
        block = _BLOCK.fullmatch(ours)
        if block:
            kind = self._kinds[int(block[2])]
            stack = next((one for one in kind.stacks if one.ours == block[3]), None)
            ours = block[1] + (_renamed(block[3], _turned(kind.names)) if stack is None else stack.saved.format(0))
        return _renamed(ours, _turned(self._outside))

    def written(self, ours: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The tensors of a checkpoint, with their names, that one of ours is."""
        block = _BLOCK.fullmatch(ours)
        stacks = [one for one in self._kinds[int(block[2])].stacks if one.ours == block[3]] if block else []
        if not stacks:
            yield self.saved(ours), tensor
        for index in range(tensor.shape[0] if stacks else 0):
            for stack in stacks:
                assert block is not None
                yield _renamed(block[1] + stack.saved.format(index), _turned(self._outside)), tensor[stack.place(index, tensor.shape[1])]


def _stack_of(kind: LayerKind[Any], saved: str) -> tuple[Stack, int] | None:
    for stack in kind.stacks:
        before, after = stack.saved.split("{}")
        number = saved[len(before) : len(saved) - len(after)]
        if saved.startswith(before) and saved.endswith(after) and number.isdigit():
            return stack, int(number)
    return None


def _renamed(name: str, pairs: Names) -> str:
    """With the first pair's beginning replaced that it has."""
    return next((new + name.removeprefix(old) for old, new in pairs if name.startswith(old)), name)


def _turned(pairs: Names) -> Names:
    return tuple((new, old) for old, new in pairs)

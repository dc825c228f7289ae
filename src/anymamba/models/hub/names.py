"""What the tensors of a model are called in a Hugging Face checkpoint, by the pairs that its family states."""

from __future__ import annotations

import re
from typing import Any

from anymamba.models.config import Config
from anymamba.models.family import Family, Names
from anymamba.models.hub import original

_BLOCK = re.compile(r"(backbone\.layers\.(\d+)\.)(.*)", re.DOTALL)


class TensorNames:
    """Both ways, for a model of this configuration."""

    def __init__(self, family: Family[Any], config: Config) -> None:
        self._outside = family.names
        self._blocks = [kind.names for kind in family.layers(config)]

    def ours(self, saved: str) -> str:
        """A name in a checkpoint, Hugging Face's or original, -> the name in our model."""
        name = _renamed(saved, self._outside)
        block = _BLOCK.fullmatch(name)
        if block and int(block[2]) < len(self._blocks):
            name = block[1] + _renamed(block[3], self._blocks[int(block[2])])
        return original.rename(name)

    def saved(self, ours: str) -> str:
        """A name in our model -> the name in the checkpoint that we write."""
        block = _BLOCK.fullmatch(ours)
        if block:
            ours = block[1] + _renamed(block[3], _turned(self._blocks[int(block[2])]))
        return _renamed(ours, _turned(self._outside))


def _renamed(name: str, pairs: Names) -> str:
    """With the first pair's beginning replaced that it has."""
    return next((new + name.removeprefix(old) for old, new in pairs if name.startswith(old)), name)


def _turned(pairs: Names) -> Names:
    return tuple((new, old) for old, new in pairs)

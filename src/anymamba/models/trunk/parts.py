"""The state of a layer that is made of several, such as a Mamba mixer beside attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from anymamba.models.trunk.state import LayerState, State


@dataclass
class Parts(State):
    """parts: states by the names of the submodules that keep them. One that grows with the text makes the whole grow."""

    parts: dict[str, State]

    grows: ClassVar[bool] = True

    @property
    def token_numbers(self) -> int:
        """See State.token_numbers."""
        return sum(part.token_numbers for part in self.parts.values())

    def part(self, name: str) -> State:
        """That of one submodule, which is to know whether a token has been read."""
        part = self.parts[name]
        part.used = self.used
        return part

    def recurrent(self) -> list[LayerState]:
        """See State.recurrent."""
        return [state for part in self.parts.values() for state in part.recurrent()]

    def tensors(self) -> dict[str, Tensor]:
        """See State.tensors: "submodule.tensor"."""
        return {f"{name}.{leaf}": tensor for name, part in self.parts.items() for leaf, tensor in part.tensors().items()}

    def map(self, function: Callable[[Tensor], Tensor]) -> Parts:
        """See State.map."""
        return Parts({name: part.map(function) for name, part in self.parts.items()}, used=self.used)

    def copy_(self, other: State) -> None:
        """See State.copy_."""
        assert isinstance(other, Parts)
        for name, part in self.parts.items():
            part.copy_(other.parts[name])

    def copy_rows_(self, rows: Tensor, other: State) -> None:
        """See State.copy_rows_."""
        assert isinstance(other, Parts)
        for name, part in self.parts.items():
            part.copy_rows_(rows, other.parts[name])

    def reset(self) -> None:
        """See State.reset."""
        for part in self.parts.values():
            part.reset()
        self.used = False

    def misfit(self, saved: Mapping[str, Tensor]) -> str:
        """See State.misfit."""
        return next((reason for name, part in self.parts.items() if (reason := part.misfit(_of(name, saved)))), "")

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """See State.load."""
        for name, part in self.parts.items():
            part.load(_of(name, saved))


@dataclass
class Nothing(State):
    """Of a layer that remembers nothing. rows: (batch, 0)."""

    rows: Tensor


def _of(name: str, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): tensor for key, tensor in saved.items() if key.startswith(f"{name}.")}

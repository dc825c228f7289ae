"""What one layer remembers between calls: tensors with a row of a batch along their first axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from anymamba.language import _

Kind = TypeVar("Kind", bound="State")


@dataclass
class State:
    """What one layer remembers of every row: a dataclass of tensors with the batch as their first axis. used: has a token been read.

    The tensors are changed in place, so that their addresses stay; a state that grows with the text overrides what is below.
    """

    used: bool = field(default=False, kw_only=True)

    grows: ClassVar[bool] = False
    """Whether its tensors are others after every token, so that no graph may be captured over them."""

    @property
    def token_numbers(self) -> int:
        """How many numbers every further token of a text adds."""
        return 0

    def recurrent(self) -> list[LayerState]:
        """The parts of it that are a Mamba layer's: none of attention, one of a mixer."""
        return []

    def tensors(self) -> dict[str, Tensor]:
        """By the names of the fields."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def map(self: Kind, function: Callable[[Tensor], Tensor]) -> Kind:
        """The same state with other tensors."""
        changes: dict[str, Any] = {name: function(tensor) for name, tensor in self.tensors().items()}
        return dataclasses.replace(self, **changes)

    def copy_(self, other: State) -> None:
        """Takes over the numbers of a state of the same shapes."""
        for tensor, new in zip(self.tensors().values(), other.tensors().values()):
            tensor.copy_(new)

    def copy_rows_(self, rows: Tensor, other: State) -> None:
        """Row ``rows[i]`` becomes row i of the other."""
        for tensor, new in zip(self.tensors().values(), other.tensors().values()):
            tensor.index_copy_(0, rows, new)

    def reset(self) -> None:
        """As new."""
        for tensor in self.tensors().values():
            tensor.zero_()
        self.used = False

    def misfit(self, saved: Mapping[str, Tensor]) -> str:
        """Why tensors read from a file are not those of such a state, for as many rows or for one; empty when they are."""
        for name, tensor in self.tensors().items():
            other = saved.get(name)
            if other is None or other.shape[1:] != tensor.shape[1:] or other.shape[0] not in (1, tensor.shape[0]):
                there = _("no ") + name if other is None else f"{name} {tuple(other.shape)}"
                shape = tuple(tensor.shape)
                return _("it has {version}; this model needs {needed}").format(version=there, needed=shape)
        return ""

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Takes over tensors that fit; those of one row are spread over all."""
        for name, tensor in self.tensors().items():
            tensor.copy_(saved[name].expand_as(tensor))


@dataclass
class LayerState(State):
    """conv: (batch, channels, conv_kernel - 1), the inputs of the last tokens. ssm: float32, (batch, d_inner, d_state) in
    Mamba-1, (batch, nheads, headdim, d_state) in Mamba-2. In Mamba-3, conv (batch, nheads, rank * d_state + headdim) holds the last key
    and value, ssm (batch, nheads, headdim * d_state + num_angles) state and angles.
    """

    conv: Tensor
    ssm: Tensor
    _constants: tuple[Any, Any] = field(default=(None, None), init=False, repr=False, compare=False)

    @classmethod
    def empty(cls, conv: tuple[int, ...], ssm: tuple[int, ...], device: torch.device | str, dtype: torch.dtype) -> LayerState:
        """Zeros of these shapes."""
        return cls(torch.zeros(conv, device=device, dtype=dtype), torch.zeros(ssm, device=device, dtype=torch.float32))

    def recurrent(self) -> list[LayerState]:
        """See State.recurrent."""
        return [self]

    def constants_of(self, parameters: tuple[Tensor, ...], function: Callable[..., Any]) -> Any:
        """``function(*parameters)``, such as A of A_log, made once for many steps, and again when a parameter has changed since."""
        if torch.compiler.is_compiling() or not all(type(p) is nn.Parameter for p in parameters):
            return function(*parameters)  # a computed value says nothing about what it is computed from
        key = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in parameters]
        if self._constants[0] != key:
            self._constants = key, function(*parameters)
        return self._constants[1]

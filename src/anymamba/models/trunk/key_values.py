"""Keys and values of the tokens read so far: the state of an attention layer, which grows with the text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from anymamba.language import _
from anymamba.models.trunk.state import State

PAGE = 256
"""Tokens by which the buffers grow, at least."""


@dataclass
class KeyValues(State):
    """keys, values: (batch, kv_heads, capacity, headdim), of which the first ``length`` tokens are filled. padding: (batch,) int64, how
    many tokens at the left of a row are none; every row ends in its last token. padded: whether there are any such."""

    keys: Tensor
    values: Tensor
    padding: Tensor
    length: int = field(default=0, kw_only=True)
    padded: bool = field(default=False, kw_only=True)

    grows: ClassVar[bool] = True

    @classmethod
    def empty(cls, batch: int, heads: int, headdim: int, device: torch.device | str, dtype: torch.dtype) -> KeyValues:
        """Of no token."""
        keys, values = (torch.zeros(batch, heads, 0, headdim, device=device, dtype=dtype) for __ in "kv")
        return cls(keys, values, torch.zeros(batch, dtype=torch.long, device=device))

    @property
    def token_numbers(self) -> int:
        """See State.token_numbers."""
        return 2 * self.keys.shape[1] * self.keys.shape[3]

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Takes over (batch, kv_heads, tokens, headdim) behind what is there; returns all keys and all values, views of the buffers."""
        end = self.length + keys.shape[2]
        closed = self.keys.is_inference() and not torch.is_inference_mode_enabled()  # torch lets nobody write into it out here
        if end > self.keys.shape[2] or closed:
            self._grow(end)
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def tensors(self) -> dict[str, Tensor]:
        """See State.tensors: what is filled."""
        end = self.length
        return {"keys": self.keys[:, :, :end], "values": self.values[:, :, :end], "padding": self.padding}

    def map(self, function: Callable[[Tensor], Tensor]) -> KeyValues:
        """See State.map."""
        mapped = {name: function(tensor) for name, tensor in self.tensors().items()}
        return KeyValues(**mapped, used=self.used, length=self.length, padded=self.padded)

    def copy_(self, other: State) -> None:
        """See State.copy_: as many tokens as the other has."""
        assert isinstance(other, KeyValues)
        self._take(other.tensors(), other.padded)

    def copy_rows_(self, rows: Tensor, other: State) -> None:
        """See State.copy_rows_. Rows of another length are moved so that all end in their last token."""
        assert isinstance(other, KeyValues)
        end = max(self.length, other.length)
        self._move_right(end - self.length)
        gap = end - other.length
        for own, new in ((self.keys, other.keys), (self.values, other.values)):
            own[rows, :, :gap] = 0
            own[rows, :, gap:end] = new[:, :, : other.length].to(own.dtype)
        self.padding[rows] = other.padding + gap
        self.padded = bool(self.padding.any())

    def reset(self) -> None:
        """See State.reset."""
        self.length, self.padded, self.used = 0, False, False
        self.padding.zero_()

    def misfit(self, saved: Mapping[str, Tensor]) -> str:
        """See State.misfit; any number of tokens fits."""
        for name, tensor in self.tensors().items():
            other = saved.get(name)
            right = other is not None and other.dim() == tensor.dim() and other.shape[0] in (1, tensor.shape[0])
            if other is None or not right or other.shape[1:2] + other.shape[3:] != tensor.shape[1:2] + tensor.shape[3:]:
                there = _("no ") + name if other is None else f"{name} {tuple(other.shape)}"
                heads, headdim = self.keys.shape[1], self.keys.shape[3]
                return _("it has {version}; this model needs keys and values of {heads} heads with {headdim} channels").format(
                    version=there, heads=heads, headdim=headdim
                )
        return ""

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """See State.load."""
        rows = self.padding.shape[0]
        self._take({name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in saved.items()}, bool(saved["padding"].any()))

    def _take(self, new: Mapping[str, Tensor], padded: bool) -> None:
        end = new["keys"].shape[2]
        if end > self.keys.shape[2]:
            self.length = 0
            self._grow(end)
        self.keys[:, :, :end] = new["keys"]
        self.values[:, :, :end] = new["values"]
        self.padding.copy_(new["padding"])
        self.length, self.padded = end, padded

    def _grow(self, tokens: int) -> None:
        """Room for so many tokens and a quarter of what there is, in whole pages: a long text is copied few times."""
        pages = -(-max(tokens, self.length + self.length // 4) // PAGE)
        self.keys, self.values = (self._larger(old, pages * PAGE) for old in (self.keys, self.values))

    def _larger(self, old: Tensor, capacity: int) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():  # a text that was begun in inference mode may go on outside of it
            new = torch.empty(*old.shape[:2], capacity, old.shape[3], dtype=old.dtype, device=old.device)
            new[:, :, : self.length] = old[:, :, : self.length]
        return new

    def _move_right(self, tokens: int) -> None:
        if tokens:
            old = {name: tensor.clone() for name, tensor in self.tensors().items()}
            self._grow(self.length + tokens)
            for name, own in (("keys", self.keys), ("values", self.values)):
                own[:, :, :tokens] = 0
                own[:, :, tokens : tokens + self.length] = old[name]
            self.padding += tokens
            self.length += tokens

"""Tensors of a model that are many in a checkpoint, put together while its files are read: no part is in memory twice."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.language import _
from anymamba.models.family import Stack


class Stacks:
    """dtype: of the whole tensors, None: as saved; device: where they are made."""

    def __init__(self, dtype: torch.dtype | None, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._tensors: dict[str, Tensor] = {}
        self._missing: dict[str, int] = {}

    def put(self, name: str, saved: str, part: Tensor, like: Tensor, stack: Stack, index: int) -> tuple[list[str], Tensor | None]:
        """Takes over one part, ``saved`` in the file, of the tensor ``name`` of the shape of ``like``. Returns ([], the whole tensor when
        this was its last part), or what is wrong with the part's shape."""
        shape = tuple(like[0].chunk(stack.parts)[0].shape)
        if index >= like.shape[0] or tuple(part.shape) != shape:
            expected = f"{shape} x {like.shape[0]}"
            return [_("{name} {shape}, expected {expected}").format(name=saved, shape=tuple(part.shape), expected=expected)], None
        if name not in self._tensors:
            self._tensors[name] = torch.empty(like.shape, dtype=self._dtype or part.dtype, device=self._device)
            self._missing[name] = like.shape[0] * stack.parts
        self._tensors[name][stack.place(index, like.shape[1])].copy_(part)
        self._missing[name] -= 1
        return [], None if self._missing[name] else self._tensors.pop(name)

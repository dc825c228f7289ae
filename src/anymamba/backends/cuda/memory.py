"""Memory for results, without the time that parsing arguments takes: some ten results a backward pass, of a microsecond or more each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

try:
    from torch._C._dynamo import guards as _guards
except ImportError:
    _guards = None  # type: ignore[assignment]

_empty: Any = getattr(_guards, "_empty_strided_cuda", None)
"""What torch.compile's own code calls; on the current device."""

Allocate = Callable[[], Any]


def allocator(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Allocate:
    """Makes tensors of this shape, without values."""
    shape, strides = tuple(shape), tuple(strides)
    here = device.type == "cuda" and _empty is not None
    index = device.index

    def allocate() -> Tensor:
        if here and torch._C._cuda_getDevice() == index:
            return _empty(shape, strides, dtype)
        return torch.empty_strided(shape, strides, dtype=dtype, device=device)

    return allocate


def contiguous(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Allocate:
    strides, size = [], 1
    for extent in reversed(shape):
        strides.append(size)
        size *= max(extent, 1)
    return allocator(shape, tuple(reversed(strides)), dtype, device)


def nothing(*_: Any) -> None:
    """In place of an Allocate where there is no such result."""

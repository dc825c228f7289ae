"""Tensors that lie in memory as a model's views do: with gaps, repeated by a stride of 0, in another order."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def like(values: Tensor, pattern: Tensor) -> Tensor:
    """The values with the strides of the pattern, a tensor of the same shape. What lies in the gaps is NaN (-1 for integers), so that
    a kernel that reads it shows."""
    if values.stride() == pattern.stride() or not values.numel():
        return values
    dense = values[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in pattern.stride())]
    size = 1 + sum((length - 1) * stride for length, stride in zip(dense.shape, pattern.stride()))
    gap = math.nan if values.is_floating_point() or values.is_complex() else -1
    room = torch.full((size,), gap, dtype=values.dtype, device=values.device)
    return room.as_strided(dense.shape, pattern.stride()).copy_(dense).expand(values.shape)

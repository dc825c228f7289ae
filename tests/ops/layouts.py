"""Views that callers hand to the ops: each takes what a Case built and returns the tensor that the op gets."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def channels_last(tensor: Tensor) -> Tensor:
    """(batch, length, channels) memory as (batch, channels, length)."""
    return tensor.transpose(1, 2)


def every_second(tensor: Tensor) -> Tensor:
    """Every second entry of the last axis: no axis is contiguous."""
    return tensor[..., ::2]


def offset(tensor: Tensor) -> Tensor:
    """A part of a wider row that starts at an odd address."""
    return tensor[..., 1:-2]


def over_batch(batch: int) -> Callable[[Tensor], Tensor]:
    """One sequence, stride 0 along the batch."""
    return lambda tensor: tensor.expand(batch, *tensor.shape[1:])

"""What a call is told apart by: two calls of the same signature pass the same checks and are served by the same function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from anymamba.backends import transforms


def of(tensors: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Of tensors, None among them: shapes, strides, dtypes, devices, whether gradients are wanted, and where in 16 bytes they begin.
    None where that does not say all: tensors of other classes, inside torch.func, without strides, or no tensors."""
    if transforms.transformed():
        return None
    parts: list[Any] = [torch.is_grad_enabled()]
    for x in tensors:
        if x is None:
            parts.append(None)
            continue
        kind = type(x)
        if (kind is not Tensor and kind is not Parameter) or x.layout is not torch.strided or x.is_meta:
            return None
        parts.append((x.shape, x.stride(), x.dtype, x.get_device(), x.requires_grad, x.data_ptr() & 15))
    return tuple(parts)

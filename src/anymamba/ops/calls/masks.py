"""Padding in a batch, as the ops that contain a convolution take it."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.ops.calls import checks


def padding_mask(op: str, mask: Tensor | None, x: Tensor, length: int) -> Tensor | None:
    """mask: (batch, length), numbers or booleans, 0 where a token is padding; x: a tensor of the call, batch first.

    Raises ArgumentError for another shape, ArgumentTypeError for another device. Returns it, or None where there is none.
    """
    if mask is None:
        return None
    checks.on_device(op, "mask", mask, x.device)
    checks.shape(op, "mask", mask, "(batch, length)", (x.shape[0], length))
    return mask.detach() if mask.dtype != torch.bool else mask

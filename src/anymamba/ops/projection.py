"""The matrix products inside the composed ops."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias. Under torch.autocast in its dtype; else in the dtype of x, to which weight and bias are cast."""
    if torch.is_autocast_enabled(x.device.type):
        return F.linear(x, weight, bias)
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

"""The gated MLP of hybrid models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .modules_as_weights import called


class GatedMLP(nn.Module):
    """fc2(a * activation(b)) with a, b = fc1(x). x: (..., in_features). The width inside is rounded up to multiple_of."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        activation: Callable[[Tensor], Tensor] = F.silu,
        bias: bool = False,
        multiple_of: int = 128,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        size = int(8 * in_features / 3) if hidden_features is None else hidden_features
        width = -(-size // multiple_of) * multiple_of
        self.fc1 = nn.Linear(in_features, 2 * width, bias=bias, device=device, dtype=dtype)
        self.activation = activation
        self.fc2 = nn.Linear(width, in_features if out_features is None else out_features, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        y, gate = called(self.fc1, x).chunk(2, dim=-1)
        return called(self.fc2, y * self.activation(gate))

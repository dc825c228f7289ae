"""The gated MLP of a block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from anymamba.models.plain import plain_class
from anymamba.models.trunk.linear import Linear
from anymamba.models.trunk.submodule import call


@plain_class
class GatedMLP(nn.Module):
    """fc2(y * silu(gate)), y and gate being the halves of fc1(x). (..., size) -> (..., size)."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.fc1 = Linear(size, 2 * width, bias=False)
        self.fc2 = Linear(width, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y, gate = call(self, "fc1", x, 2 * self.width).chunk(2, dim=-1)
        return call(self, "fc2", y * F.silu(gate), x.shape[-1])

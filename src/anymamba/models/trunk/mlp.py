"""The MLPs of blocks: (..., size) -> (..., size)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from anymamba.models.plain import plain_class
from anymamba.models.trunk.linear import Linear
from anymamba.models.trunk.submodule import call

Activation = Callable[[Tensor], Tensor]


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


@plain_class
class GateFirstMLP(nn.Module):
    """output_linear(silu(gate) * y), gate and y being the halves of input_linear(x): Granite's."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.input_linear = Linear(size, 2 * width, bias=False)
        self.output_linear = Linear(width, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, y = call(self, "input_linear", x, 2 * self.width).chunk(2, dim=-1)
        return call(self, "output_linear", F.silu(gate) * y, x.shape[-1])


@plain_class
class SplitMLP(nn.Module):
    """down_proj(up_proj(x) * silu(gate_proj(x) * gate_scale)) * down_scale: Llama's, with the multipliers of Falcon-H1."""

    def __init__(self, size: int, width: int, bias: bool = False, gate_scale: float = 1.0, down_scale: float = 1.0) -> None:
        super().__init__()
        self.width, self.gate_scale, self.down_scale = width, gate_scale, down_scale
        self.gate_proj = Linear(size, width, bias=bias)
        self.up_proj = Linear(size, width, bias=bias)
        self.down_proj = Linear(width, size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = call(self, "gate_proj", x, self.width)
        if self.gate_scale != 1.0:
            gate = gate * self.gate_scale
        y = call(self, "down_proj", call(self, "up_proj", x, self.width) * F.silu(gate), x.shape[-1])
        return y if self.down_scale == 1.0 else y * self.down_scale


@plain_class
class PlainMLP(nn.Module):
    """down_proj(act(up_proj(x))): without a gate."""

    def __init__(self, size: int, width: int, act: Activation, bias: bool = False) -> None:
        super().__init__()
        self.width, self.act = width, act
        self.up_proj = Linear(size, width, bias=bias)
        self.down_proj = Linear(width, size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return call(self, "down_proj", self.act(call(self, "up_proj", x, self.width)), x.shape[-1])

"""A linear layer and an embedding whose weights stay as a file has them: in 16 bits or in blocks, whatever the activations are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anymamba.models import plain
from anymamba.models.plain import Weights
from anymamba.ops.projection import linear_stored
from anymamba.reference import blocks


class StoredLinear(nn.Module):
    """y = x weight^T + bias in the dtype of x, sums in float32.

    weight: (out, in) of 16 bits, or uint8 (out, bytes of a row) in blocks, see ``anymamba.reference.blocks``; it may lie in a mapped file.
    bias: (out,) or None.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, in_features: int, bias: Tensor | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, weight.shape[0]
        self.format = blocks.name_of(weight, in_features)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    @property
    def applied_shape(self) -> tuple[int, int]:
        """Of the matrix that is applied, (out, in)."""
        return self.out_features, self.in_features

    def dequantized(self) -> Tensor:
        """The weight in float32, (out, in)."""
        return blocks.unpacked(self.weight, self.in_features) if self.weight.dtype == torch.uint8 else self.weight.float()

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in)."""
        return linear_stored(x, self.weight, self.bias)

    def _apply(self, function: object, recurse: bool = True) -> StoredLinear:
        """A module moves to another device with the model, but a change of dtype concerns the activations alone."""
        for name in ("weight", "bias"):
            tensor = self._buffers[name]
            if tensor is not None:
                moved: Tensor = function(tensor)  # type: ignore[operator]
                self._buffers[name] = moved if moved.dtype == tensor.dtype else tensor.to(moved.device)
        return self


plain.computed_class(StoredLinear, lambda module: Weights(module.dequantized(), module.bias))

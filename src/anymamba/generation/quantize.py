"""Weight-only int8: half the bytes of bf16 to read for each token, one scale an output row, activations untouched."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anymamba.models.lm import LanguageModel
from anymamba.ops.projection import linear_int8


class QuantizedLinear(nn.Module):
    """y = x (weight * scale)^T + bias with int8 weight (out, in) and float32 scale (out,).

    Rows are rounded to nearest on a symmetric grid of 255 steps whose ends are the row's largest magnitude.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        values = weight.detach().float()
        scale = values.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        self.register_buffer("weight", (values / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        self.compute_dtype = weight.dtype

    def dequantized(self) -> Tensor:
        """The weight in the dtype of the activations."""
        return (self.weight.float() * self.scale[:, None]).to(self.compute_dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in). The weight is widened a tile at a time; a step of a few rows goes through the fused kernels instead."""
        return linear_int8(x, self.weight, self.scale, self.bias)


def quantize_int8(model: LanguageModel) -> LanguageModel:
    """Replaces every linear layer of the blocks and the head, in place. The embedding stays, so a tied head becomes its own."""
    for block in model.backbone.layers:
        mixer = block.mixer
        for name in ("in_proj", "x_proj", "out_proj"):
            if hasattr(mixer, name):
                linear = getattr(mixer, name)
                setattr(mixer, name, QuantizedLinear(linear.weight, linear.bias))
        mixer.fused = False  # type: ignore[union-attr]  # the fused mixer takes the weights themselves
    model.lm_head = QuantizedLinear(model.lm_head.weight, None)  # type: ignore[assignment]
    return model

"""Linear layers and an embedding whose weights are stored otherwise than the activations: in 16 bits, in blocks, or in rows of int8."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from anymamba.models import plain
from anymamba.models.plain import Weights
from anymamba.ops.projection import linear_int8, linear_stored
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

    def _apply(self, function: Any, recurse: bool = True) -> StoredLinear:
        return _moved(self, function)


@plain.plain_class
class StoredEmbedding(nn.Module):
    """The rows of a matrix in blocks, (vocabulary, bytes of a row), in float32."""

    weight: Tensor

    def __init__(self, weight: Tensor, embedding_dim: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = weight.shape[0], embedding_dim
        self.register_buffer("weight", weight)

    @property
    def applied_shape(self) -> tuple[int, int]:
        """Of the matrix whose rows these are."""
        return self.num_embeddings, self.embedding_dim

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...) -> (..., embedding_dim)."""
        return rows_of(self.weight, ids, self.embedding_dim)

    def _apply(self, function: Any, recurse: bool = True) -> StoredEmbedding:
        return _moved(self, function)


def rows_of(table: Tensor, ids: Tensor, size: int) -> Tensor:
    """The rows of an embedding, in blocks or not: ids (...) -> (..., size)."""
    if table.dtype != torch.uint8:
        return table[ids]
    return blocks.unpacked(table[ids.flatten()], size).view(*ids.shape, size)


class QuantizedLinear(nn.Module):
    """y = x (weight * scale)^T + bias with int8 weight (out, in) and float32 scale (out,).

    Rows are rounded to nearest on a symmetric grid of 255 steps whose ends are the row's largest magnitude.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, compute_dtype: torch.dtype | None = None, scale: Tensor | None = None) -> None:
        """weight: to be rounded, or where there is a scale, rounded."""
        super().__init__()
        self.compute_dtype = compute_dtype or weight.dtype
        if scale is None:
            values = weight.detach().float()
            scale = values.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
            weight = (values / scale[:, None]).round().to(torch.int8)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def dequantized(self) -> Tensor:
        """The weight in the dtype of the activations."""
        return (self.weight.float() * self.scale[:, None]).to(self.compute_dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in). The weight is widened a tile at a time; a step of a few rows goes through the fused kernels instead."""
        return linear_int8(x, self.weight, self.scale, self.bias)


def unpacked_state(model: nn.Module) -> dict[str, Tensor]:
    """``model.state_dict()`` with every stored weight as the numbers that it stands for, under its layer's name."""
    state = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, (StoredLinear, QuantizedLinear)):
            state[f"{name}.weight"] = module.dequantized()
            state.pop(f"{name}.scale", None)
        elif isinstance(module, StoredEmbedding):
            state[f"{name}.weight"] = blocks.unpacked(module.weight, module.embedding_dim)
    return state


def _moved(module: Any, function: Any) -> Any:
    """``_apply`` of a stored layer: it moves to another device with the model, but a change of dtype concerns the activations alone."""
    for name, tensor in module._buffers.items():
        if tensor is not None:
            moved = function(tensor)
            module._buffers[name] = moved if moved.dtype == tensor.dtype else tensor.to(moved.device)
    return module


plain.computed_class(StoredLinear, lambda module: Weights(module.dequantized(), module.bias))
plain.computed_class(QuantizedLinear, lambda module: Weights(module.dequantized(), module.bias))

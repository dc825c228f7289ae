"""Rounded weights in a checkpoint folder: ours alone reads them, and config.json says so (``quantization_config``).

A matrix in blocks is a uint8 tensor under its layer's name, one in int8 rows has the scales beside it, ``LAYER.scale``; what is not
rounded is saved as always. The tensors stay in the mapped file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anymamba.errors import AnymambaError, UnsupportedError
from anymamba.language import _
from anymamba.models.trunk.stored_linear import QuantizedLinear, StoredEmbedding, StoredLinear
from anymamba.reference import blocks

METHOD = "anymamba"
ENTRY = {"quant_method": METHOD, "version": 1}
_TABLE = "backbone.embeddings"


def is_rounded(values: Mapping[str, Any], where: Path) -> bool:
    """Whether the folder with this config.json has rounded weights. Raises UnsupportedError for those of other programs."""
    entry = values.get("quantization_config")
    if entry is None:
        return False
    method = entry.get("quant_method") if isinstance(entry, dict) else entry
    if method != METHOD or entry.get("version") != ENTRY["version"]:
        raise UnsupportedError(
            "checkpoint",
            _("{where}: quantization_config {entry} is not one that anymamba reads").format(where=where, entry=entry),
            fix=_("take the folder with the weights as they were, and round them with --quantize"),
        )
    return True


def is_part(name: str, tensor: Tensor) -> bool:
    """Whether the tensor of a rounded checkpoint is a rounded matrix or its scales."""
    return tensor.dtype in (torch.uint8, torch.int8) or (name.endswith(".scale") and tensor.dtype == torch.float32)


def place(model: nn.Module, parts: Mapping[str, Tensor], device: torch.device, folder: Path) -> None:
    """Puts layers with the rounded matrices where they belong; the biases are in the model already. Raises AnymambaError naming a tensor
    that belongs nowhere or has another size than the configuration says."""
    for name in (name for name in parts if not name.endswith(".scale")):
        path = name.removesuffix(".weight")
        try:
            old: Any = model.get_submodule(path)
            rows, columns = old.weight.shape
        except (AttributeError, ValueError):
            raise _misplaced(folder, name, parts[name], "") from None
        tensor, scale = parts[name].to(device), parts.get(f"{path}.scale")
        if tensor.dtype == torch.uint8:
            fits = tensor.dim() == 2 and tensor.shape[0] == rows and columns % blocks.SIZE == 0
            fits = fits and tensor.shape[1] in [blocks.row_bytes(kind, columns) for kind in blocks.BYTES]
        else:
            fits = tuple(tensor.shape) == (rows, columns) and scale is not None and tuple(scale.shape) == (rows,)
        if not fits:
            raise _misplaced(folder, name, tensor, f"({rows}, {columns})")
        new: nn.Module
        if path == _TABLE:
            new = StoredEmbedding(tensor, columns)
        elif scale is None:
            new = StoredLinear(tensor, columns, old.bias)
        else:
            new = QuantizedLinear(tensor, old.bias, torch.float32, scale.to(device))
        owner, _dot, leaf = path.rpartition(".")
        setattr(model.get_submodule(owner), leaf, new)


def tie(model: Any) -> bool:
    """Makes the head the embedding's matrix where that is rounded; whether it was."""
    table = model.backbone.embeddings
    if isinstance(table, StoredEmbedding):
        model.lm_head = StoredLinear(table.weight, table.embedding_dim)
    return isinstance(table, StoredEmbedding)


def _misplaced(folder: Path, name: str, tensor: Tensor, expected: str) -> AnymambaError:
    return AnymambaError(
        "checkpoint",
        _("{folder}: the rounded tensor {name} {shape} is none of the model's").format(folder=folder, name=name, shape=tuple(tensor.shape)),
        why=_("the configuration says {expected}").format(expected=expected) if expected else None,
    )

"""The tensors of a GGUF file as torch's: as they lie where kernels read them so, else unpacked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.models.gguf.file import GGUFFile, TensorInfo
from anymamba.models.gguf.types import PLAIN
from anymamba.reference import blocks

AS_THEY_LIE = {"F16", "BF16", *(name.upper() for name in blocks.BYTES)}
"""Types of matrices that products read straight from the file's bytes (F32 is torch's own)."""

_ROWS_AT_ONCE = 2**22
"""Weights that are unpacked at a time: the library that does it makes several copies."""


def as_it_lies(file: GGUFFile, info: TensorInfo) -> Tensor:
    """A matrix of one of ``AS_THEY_LIE`` in the mapped file: (out, in) of 16 bits or uint8 (out, bytes of a row)."""
    raw = torch.from_numpy(file.raw(info))
    kind = {"F16": torch.float16, "BF16": torch.bfloat16}.get(info.type.name)
    return raw if kind is None else raw.view(kind)


def unpacked(file: GGUFFile, info: TensorInfo) -> Tensor:
    """Any tensor in float32, in memory of its own, in its shape. Raises AnymambaError where a package is missing that can unpack it."""
    raw, name = file.raw(info), info.type.name
    if name == "F32":
        return torch.from_numpy(raw.view("<f4").reshape(info.shape).copy())
    if name in PLAIN:
        return (as_it_lies(file, info) if name != "F64" else torch.from_numpy(raw.view("<f8"))).float().reshape(info.shape)
    columns = info.shape[-1]
    if name in AS_THEY_LIE:
        return blocks.unpacked(torch.from_numpy(raw), columns).reshape(info.shape)
    dequantize, out = _library(file.path, info), torch.empty(raw.shape[0], columns)
    step = max(1, _ROWS_AT_ONCE // columns)
    for row in range(0, raw.shape[0], step):
        out[row : row + step] = torch.from_numpy(dequantize(raw[row : row + step]))
    return out.reshape(info.shape)


def _library(path: Path, info: TensorInfo) -> Callable[[np.ndarray], np.ndarray]:
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError as error:
        raise AnymambaError(
            "gguf",
            _("{path}: tensor {name} (byte {offset}) is in {type}, which the package gguf unpacks").format(
                path=path, name=info.name, offset=info.offset, type=info.type.name
            ),
            why=str(error),
            fix='pip install "anymamba[gguf]"',
        ) from error
    kind = GGMLQuantizationType[info.type.name]
    return lambda rows: quants.dequantize(rows, kind)

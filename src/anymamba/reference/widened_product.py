"""The product of a linear layer whose weights have fewer bits than its sums."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.reference import blocks
from anymamba.reference import supports as supports
from anymamba.reference.arithmetic import working_dtype


def widened_product(
    a: Tensor, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """a: (rows, depth). weight: (columns, depth), floating or int8; or uint8 in blocks, see blocks.py. scale: (columns,), a
    factor of each of its rows. bias: (columns,). Returns (a @ weight.T) * scale + bias, (rows, columns), in ``dtype`` (None: that of a)."""
    wide = working_dtype(a)
    weight = blocks.unpacked(weight, a.shape[1], wide) if weight.dtype == torch.uint8 else weight.to(wide)
    y = a.to(wide) @ weight.t()
    if scale is not None:
        y = y * scale.to(wide)
    if bias is not None:
        y = y + bias.to(wide)
    return y.to(dtype or a.dtype)

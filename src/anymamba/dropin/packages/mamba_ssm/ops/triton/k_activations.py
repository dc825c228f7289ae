"""SwiGLU: silu of the first half of the last axis times the second half."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def swiglu(xy: Tensor) -> Tensor:
    """xy: (..., 2 * dim). Returns (..., dim); differentiable."""
    x, y = xy.chunk(2, dim=-1)
    return F.silu(x) * y


class SwiGLU:
    """Kept for callers of the class: ``apply`` is swiglu, differentiated by autograd."""

    @staticmethod
    def apply(xy: Tensor) -> Tensor:
        return swiglu(xy)


def _swiglu_fwd(xy: Tensor, out: Tensor | None = None) -> Tensor:
    """swiglu without a gradient, written to out (..., dim) where it is given."""
    with torch.no_grad():
        result = swiglu(xy)
        return result if out is None else out.copy_(result)


def _swiglu_bwd(
    xy: Tensor, dout: Tensor, dxy: Tensor | None = None, recompute_output: bool = False, out: Tensor | None = None
) -> Any:
    """The gradient of swiglu: dout (..., dim) to dxy (..., 2 * dim); with recompute_output also the output."""
    with torch.no_grad():
        x, y = xy.float().chunk(2, dim=-1)
        gate = torch.sigmoid(x)
        dout32 = dout.float()
        dx = dout32 * y * gate * (1 + x * (1 - gate))
        gradient = torch.cat([dx, dout32 * x * gate], dim=-1).to(xy.dtype)
        if dxy is not None:
            gradient = dxy.copy_(gradient)
    return (gradient, _swiglu_fwd(xy, out)) if recompute_output else gradient

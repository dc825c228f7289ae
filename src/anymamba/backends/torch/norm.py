"""LayerNorm and RMSNorm with the residual stream, dropout and a second norm of the same sum (parallel blocks)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.backends.torch import supports as supports
from anymamba.backends.torch.precision import full_precision, wide_dtype


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    return_dropout_mask: bool = False,
) -> Tensor | tuple[Tensor | None, ...]:
    """See anymamba.ops.layer_norm_fn. x: (..., width)."""
    with full_precision(x.device):
        wide = wide_dtype(x, weight, residual, x1)
        total = x.to(wide)
        if rowscale is not None:
            total = total * rowscale.to(wide).unsqueeze(-1)
        total, mask = _dropped(total, dropout_p)
        mask1 = None
        if x1 is not None:
            second_branch, mask1 = _dropped(x1.to(wide), dropout_p)
            total = total + second_branch
        if residual is not None:
            total = total + residual.to(wide)
        outputs: list[Tensor | None] = [normalised(total, weight, bias, eps, is_rms_norm).to(x.dtype)]
        if weight1 is not None:
            outputs.append(normalised(total, weight1, bias1, eps, is_rms_norm).to(x.dtype))
        if prenorm:
            stream = residual.dtype if residual is not None else wide if residual_in_fp32 else x.dtype
            # .to() returns x itself when nothing was added and the dtype stays, as upstream does
            outputs.append(total.to(stream))
    if return_dropout_mask:
        outputs += [mask, mask1]
    return outputs[0] if len(outputs) == 1 and outputs[0] is not None else tuple(outputs)


def rms_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    return_dropout_mask: bool = False,
) -> Tensor | tuple[Tensor | None, ...]:
    """See anymamba.ops.rms_norm_fn: layer_norm_fn without subtracting the mean."""
    options = {"residual_in_fp32": residual_in_fp32, "return_dropout_mask": return_dropout_mask, "is_rms_norm": True}
    return layer_norm_fn(x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, prenorm, **options)


def normalised(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, is_rms_norm: bool) -> Tensor:
    """x in float32 or float64, normalised over its last dimension and scaled."""
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    if not is_rms_norm:
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    out = F.rms_norm(x, x.shape[-1:], weight, eps)
    return out if bias is None else out + bias


def _dropped(x: Tensor, dropout_p: float) -> tuple[Tensor, Tensor | None]:
    """x with a random share of its elements zeroed and the rest scaled up, and the mask of those kept."""
    if not dropout_p:
        return x, None
    keep = torch.rand_like(x) >= dropout_p
    return torch.where(keep, x / (1 - dropout_p), 0), keep

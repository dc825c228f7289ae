"""Layer norm and RMS norm with what comes before them in a block: dropout, row scale, a second branch, the residual.

Semantics of ``mamba_ssm.ops.triton.layer_norm``. RMS norm: Zhang and Sennrich, 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.reference import supports as supports
from anymamba.reference.arithmetic import working_dtype


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
    """s = dropout(x * rowscale) + dropout(x1) + residual; y = norm(s) * weight + bias, y1 = norm(s) * weight1 + bias1.

    x, x1, residual (..., dim); weight, bias, weight1, bias1 (dim,); rowscale (...), one factor a row of x.
    Returns y in the dtype of x, then: y1 if weight1 is given; with prenorm s in the dtype of residual (without residual: of x, or
    float32 with residual_in_fp32); with return_dropout_mask the masks of x and of x1 (True: kept; None where there is none).
    One of them alone comes without a tuple.
    """
    dtype = working_dtype(x, weight, residual, x1)
    total = x.to(dtype)
    if rowscale is not None:
        total = total * rowscale.to(dtype)[..., None]
    total, mask = _dropout(total, dropout_p)
    mask1 = None
    if x1 is not None:
        branch, mask1 = _dropout(x1.to(dtype), dropout_p)
        total = total + branch
    if residual is not None:
        total = total + residual.to(dtype)
    centred = total if is_rms_norm else total - total.mean(dim=-1, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + eps)
    outputs: list[Tensor | None] = [_affine(normal, weight, bias).to(x.dtype)]
    if weight1 is not None:
        outputs.append(_affine(normal, weight1, bias1).to(x.dtype))
    if prenorm:
        residual_dtype_out = x.dtype if residual is None else residual.dtype
        if residual is None and residual_in_fp32:
            residual_dtype_out = torch.promote_types(x.dtype, torch.float32)
        outputs.append(total.to(residual_dtype_out))
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
    """layer_norm_fn without the subtraction of the mean."""
    return layer_norm_fn(
        x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, prenorm, residual_in_fp32,
        is_rms_norm=True, return_dropout_mask=return_dropout_mask,
    )  # fmt: skip


def _affine(normal: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    scaled = normal * weight.to(normal.dtype)
    return scaled if bias is None else scaled + bias.to(normal.dtype)


def _dropout(x: Tensor, probability: float) -> tuple[Tensor, Tensor | None]:
    if not probability:
        return x, None
    mask = torch.rand(x.shape, device=x.device) >= probability
    return torch.where(mask, x / (1 - probability), 0), mask

"""Layer norm and RMS norm with residual, dropout and a second branch, as functions and as a module."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymamba import ops
from anymamba.dropin.borrowed import borrowed
from anymamba.dropin.counting import counted
from anymamba.models.plain import plain_class

layer_norm_fn = counted(__name__, ops.layer_norm_fn)
rms_norm_fn = counted(__name__, ops.rms_norm_fn)


class LayerNormFn:
    """Kept for callers of the class: ``apply`` is layer_norm_fn, which has its own autograd node."""

    @staticmethod
    def apply(*arguments: Any) -> Any:
        return layer_norm_fn(*arguments)


def layer_norm_ref(
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
    dropout_mask: Tensor | None = None,
    dropout_mask1: Tensor | None = None,
    upcast: bool = False,
) -> Any:
    """Layer norm in plain torch with the given dropout masks (True: kept). x: (..., dim). upcast: compute in float32.

    Returns y, then y1 if weight1 is given, then with prenorm the sum that was normalised.
    """
    return _norm_ref(
        False, x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, prenorm, dropout_mask, dropout_mask1, upcast
    )


def rms_norm_ref(
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
    dropout_mask: Tensor | None = None,
    dropout_mask1: Tensor | None = None,
    upcast: bool = False,
) -> Any:
    """layer_norm_ref without the subtraction of the mean."""
    return _norm_ref(
        True, x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, prenorm, dropout_mask, dropout_mask1, upcast
    )


def _norm_ref(
    is_rms_norm: bool, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, x1: Tensor | None,
    weight1: Tensor | None, bias1: Tensor | None, eps: float, dropout_p: float, rowscale: Tensor | None, prenorm: bool,
    mask: Tensor | None, mask1: Tensor | None, upcast: bool,
) -> Any:  # fmt: skip
    dtype = x.dtype

    def wide(tensor: Tensor | None) -> Tensor | None:
        return tensor.float() if upcast and tensor is not None else tensor

    def dropped(branch: Tensor, kept: Tensor | None) -> Tensor:
        if not dropout_p:
            return branch
        return F.dropout(branch, dropout_p) if kept is None else branch.masked_fill(~kept, 0) / (1 - dropout_p)

    total = x.float() if upcast else x
    if rowscale is not None:
        total = total * rowscale[..., None]
    total = dropped(total, mask)
    if x1 is not None:
        total = total + dropped(x1.float() if upcast else x1, mask1)
    if residual is not None:
        total = (total + (residual.float() if upcast else residual)).to(total.dtype)

    def affine(scale: Tensor, shift: Tensor | None) -> Tensor:
        scale_, shift_ = wide(scale), wide(shift)
        if not is_rms_norm:
            return F.layer_norm(total.to(scale.dtype if not upcast else total.dtype), total.shape[-1:], scale_, shift_, eps).to(dtype)
        assert scale_ is not None
        y = total * torch.rsqrt(total.square().mean(dim=-1, keepdim=True) + eps) * scale_
        return (y if shift_ is None else y + shift_).to(dtype)

    outputs = [affine(weight, bias)]
    if weight1 is not None:
        outputs.append(affine(weight1, bias1))
    if prenorm:
        outputs.append(total)
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


@plain_class
class RMSNorm(nn.Module):
    """RMS norm over the last axis of (..., hidden_size), with an optional residual; no bias. Parameter: weight (hidden_size,)."""

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        dropout_p: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.drop = nn.Dropout(dropout_p) if dropout_p > 0.0 else None
        self.weight = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False) -> Any:
        dropout_p = self.drop.p if self.drop is not None and self.training else 0.0
        return rms_norm_fn(
            x, self.weight, self.bias, residual=residual, eps=self.eps, dropout_p=dropout_p, prenorm=prenorm,
            residual_in_fp32=residual_in_fp32,
        )  # fmt: skip


class LayerNormLinearFn:
    """Kept for callers of the class: ``apply`` is layer_norm_linear_fn, differentiated by autograd."""

    @staticmethod
    def apply(*arguments: Any) -> Any:
        return layer_norm_linear_fn(*arguments)


def layer_norm_linear_fn(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-6,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
) -> Any:
    """The norm, then a linear layer: linear_weight (out, dim), linear_bias (out,). With prenorm also the residual sum."""
    normed = layer_norm_fn(
        x, norm_weight, norm_bias, residual, eps=eps, prenorm=prenorm, residual_in_fp32=residual_in_fp32, is_rms_norm=is_rms_norm
    )
    y, rest = (normed[0], normed[1:]) if isinstance(normed, tuple) else (normed, ())
    if torch.is_autocast_enabled(x.device.type):
        y = y.to(torch.get_autocast_dtype(x.device.type))
    out = F.linear(y, linear_weight.to(y.dtype), None if linear_bias is None else linear_bias.to(y.dtype))
    return (out, *rest) if rest else out


def _layer_norm_fwd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    residual_dtype: torch.dtype | None = None,
    is_rms_norm: bool = False,
    return_dropout_mask: bool = False,
) -> tuple[Tensor | None, ...]:
    """The norm of rows and what a backward pass needs. x: (rows, dim). No gradient passes.

    Returns y in out_dtype, y1 (None without weight1), mean (rows,) float32 (None for RMS), rstd (rows,) float32, the normalised sum
    in residual_dtype (x itself where nothing was added), None for the random seeds, and the masks of x and x1.
    """
    with torch.no_grad():
        normed = layer_norm_fn(
            x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, True, True, is_rms_norm, True
        )
        y1 = normed[1] if weight1 is not None else None
        total, mask, mask1 = normed[-3:]
        sums = total.float()
        mean = None if is_rms_norm else sums.mean(dim=-1)
        centred = sums if mean is None else sums - mean[:, None]
        rstd = torch.rsqrt(centred.square().mean(dim=-1) + eps)
        y = normed[0] if out_dtype is None else normed[0].to(out_dtype)
        y1 = y1 if out_dtype is None or y1 is None else y1.to(out_dtype)
        added = residual is not None or x1 is not None or rowscale is not None or dropout_p > 0 or residual_dtype not in (None, x.dtype)
        sum_dtype = residual_dtype or (x.dtype if residual is None else residual.dtype)
        out = total.to(sum_dtype) if added else x
        return y, y1, mean, rstd, out, None, mask, mask1


__getattr__ = borrowed(__name__, "from ...utils.torch import custom_bwd, custom_fwd")

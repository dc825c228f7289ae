"""Layer norm and RMS norm with a gate, as functions and as modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from anymamba import ops
from anymamba.dropin.borrowed import borrowed
from anymamba.dropin.counting import counted
from anymamba.models.plain import plain_class
from anymamba.reference import norm_gated as exact

layernorm_fn = counted(__name__, ops.layernorm_fn)
rmsnorm_fn = counted(__name__, ops.rmsnorm_fn)


class LayerNormFn:
    """Kept for callers of the class: ``apply`` is layernorm_fn, which has its own autograd node."""

    @staticmethod
    def apply(*arguments: Any) -> Any:
        return layernorm_fn(*arguments)


def rms_norm_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    upcast: bool = True,
) -> Tensor:
    """RMS norm in plain torch. x, z: (..., dim). upcast: compute in float32, else in the dtypes given."""
    if upcast:
        return exact.rmsnorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate)
    values = x if z is None or norm_before_gate else x * nn.functional.silu(z)
    groups = values.unflatten(-1, (-1, group_size or x.shape[-1]))
    y = (groups * torch.rsqrt(groups.square().mean(dim=-1, keepdim=True) + eps)).flatten(-2) * weight
    y = y if bias is None else y + bias
    return (y if z is None or not norm_before_gate else y * nn.functional.silu(z)).to(x.dtype)


def _layer_norm_fwd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    z: Tensor | None = None,
    out: Tensor | None = None,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The norm of rows and what a backward pass needs. x, z: (rows, dim). No gradient passes.

    Returns y, written to out where it is given, and in float32 the mean (None for RMS) and 1 / deviation, (groups * rows,) with the
    rows of a group together.
    """
    with torch.no_grad():
        y = layernorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate, is_rms_norm)
        y = y if out is None else out.copy_(y)
        values = x.float() if z is None or norm_before_gate else x.float() * nn.functional.silu(z.float())
        groups = values.unflatten(-1, (-1, group_size or x.shape[-1])).transpose(0, 1).flatten(0, 1)
        mean = None if is_rms_norm else groups.mean(dim=-1)
        centred = groups if mean is None else groups - mean[:, None]
        return y, mean, torch.rsqrt(centred.square().mean(dim=-1) + eps)


@plain_class
class LayerNorm(nn.Module):
    """Gated layer norm over (..., hidden_size). Parameters: weight, bias (hidden_size,)."""

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate
        self.weight = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return layernorm_fn(
            x, self.weight, self.bias, z=z, group_size=self.group_size, eps=self.eps, norm_before_gate=self.norm_before_gate
        )


@plain_class
class RMSNorm(nn.Module):
    """Gated RMS norm over (..., hidden_size). Parameter: weight (hidden_size,)."""

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate
        self.weight = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return rmsnorm_fn(
            x, self.weight, self.bias, z=z, eps=self.eps, group_size=self.group_size, norm_before_gate=self.norm_before_gate
        )


__getattr__ = borrowed(__name__, "from einops import rearrange; import torch.nn.functional as F")

"""The Mamba-1 scan and the fused inside of a Mamba-1 mixer."""

from __future__ import annotations

import inspect
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from anymamba import ops
from anymamba.dropin.borrowed import borrowed
from anymamba.dropin.caller import caller, instead
from anymamba.dropin.counting import counted
from anymamba.ops.mamba_inner import mamba_inner
from anymamba.reference import norm as exact_norm
from anymamba.reference import selective_scan as exact_scan

_INNER = inspect.signature(ops.mamba_inner_fn)

selective_scan_fn = counted(__name__, ops.selective_scan_fn)


def _mamba_inner(*arguments: Any, **keywords: Any) -> Tensor:
    """mamba_inner_fn; a module of the caller that is more than the weight it gave us (an adapter, a hook) is called in its place."""
    bound = _INNER.bind_partial(*arguments, **{name: value for name, value in keywords.items() if name != "mask"}).arguments
    calling = caller(x_proj=bound.get("x_proj_weight"), out_proj=bound.get("out_proj_weight"))
    options: dict[str, Any] = {**keywords, **({} if calling is None else instead(calling, keywords))}
    return mamba_inner(*arguments, **options)


mamba_inner_fn = counted(__name__, ops.mamba_inner_fn, _mamba_inner)


class SelectiveScanFn:
    """Kept for callers of the class: ``apply`` is selective_scan_fn, which has its own autograd node."""

    @staticmethod
    def apply(*arguments: Any) -> Any:
        return selective_scan_fn(*arguments)


class MambaInnerFn:
    """Kept for callers of the class: ``apply`` is mamba_inner_fn, which has its own autograd nodes."""

    @staticmethod
    def apply(*arguments: Any) -> Any:
        return mamba_inner_fn(*arguments)


def selective_scan_ref(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Any:
    """The scan in plain torch, token by token; shapes as in selective_scan_fn."""
    return exact_scan.selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, bool(delta_softplus), bool(return_last_state))


def mamba_inner_ref(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """The inside of the mixer as convolution, projections and scan one after another; shapes as in mamba_inner_fn.

    Upstream's calls the public ops too, and its test needs that: weights of variance 1 over hundreds of inputs give it outputs of 1e6
    beside outputs near 0, on which two computations agree within its tolerance only where they round alike. The mathematics that no
    backend touches is anymamba.reference.mamba_inner.
    """
    x, z = xz.chunk(2, dim=1)
    u = ops.causal_conv1d_fn(x, conv1d_weight[:, 0], conv1d_bias, activation="silu")
    assert isinstance(u, Tensor)
    rows = F.linear(u.mT, x_proj_weight)
    delta, parts = rows[..., : delta_proj_weight.shape[1]], rows[..., delta_proj_weight.shape[1] :]
    chunks = list(parts.chunk((B is None) + (C is None), dim=-1)) if B is None or C is None else []
    B, C = (
        given if given is not None else _over_time(chunks.pop(0), bias, A.is_complex())
        for given, bias in ((B, B_proj_bias), (C, C_proj_bias))
    )
    y = ops.selective_scan_fn(u, F.linear(delta, delta_proj_weight).mT, A, B, C, D, z, delta_bias, delta_softplus)
    assert isinstance(y, Tensor)
    return F.linear(y.mT, out_proj_weight, out_proj_bias)


def _over_time(rows: Tensor, bias: Tensor | None, complex_A: bool) -> Tensor:
    """rows: (batch, length, d_state), with complex A (batch, length, 2 * d_state). Returns B or C, (batch, d_state, length) or
    (batch, d_state, 2 * length)."""
    rows = rows if bias is None else rows + bias.to(rows.dtype)
    return rows.unflatten(2, (-1, 2)).transpose(1, 2).flatten(2) if complex_A else rows.mT


def rms_norm_forward(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float = 1e-6, is_rms_norm: bool = True) -> Tensor:
    """Norm over the last axis. x: (..., dim); weight, bias: (dim,)."""
    y = exact_norm.layer_norm_fn(x, weight, bias, eps=eps, is_rms_norm=is_rms_norm)
    assert isinstance(y, Tensor)
    return y


__getattr__ = borrowed(
    __name__,
    "from einops import rearrange, repeat"
    "; import torch"
    "; import selective_scan_cuda"
    "; from causal_conv1d import causal_conv1d_fn"
    "; from causal_conv1d.cpp_functions import causal_conv1d_bwd_function, causal_conv1d_fwd_function, causal_conv1d_update_function"
    "; from ..utils.torch import custom_bwd, custom_fwd"
    "; from .triton.layer_norm import _layer_norm_fwd",
)

"""The Mamba-3 recurrence over a sequence, several values a head and token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymamba import ops
from anymamba.dropin.counting import counted
from anymamba.errors import ArgumentError
from anymamba.language import _


def mamba3_mimo(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ADT: Tensor,
    DT: Tensor,
    Trap: Tensor,
    Q_bias: Tensor,
    K_bias: Tensor,
    MIMO_V: Tensor,
    MIMO_Z: Tensor | None,
    MIMO_Out: Tensor | None,
    Angles: Tensor,
    D: Tensor | None,
    Z: Tensor | None,
    chunk_size: int,
    rotary_dim_divisor: int,
    dtype: torch.dtype | None,
    return_state: bool = False,
    cu_seqlens: Tensor | None = None,
    fuse_pregate_headwise_rms_norm: bool = False,
    outproj_norm_weight: Tensor | None = None,
    outproj_norm_eps: float = 1e-5,
) -> Any:
    """``anymamba.ops.mamba3_mimo``, which says what everything means. The last three arguments are of upstream's main branch.

    fuse_pregate_headwise_rms_norm: each head's output of each rank is divided by its root mean square over headdim (plus outproj_norm_eps
    under the root) and multiplied by outproj_norm_weight, (nheads, headdim) or flat, None for ones, before it is gated by Z, which must
    be there like MIMO_Out."""
    shared = (Q, K, V, ADT, DT, Trap, Q_bias, K_bias, MIMO_V)
    options = (chunk_size, rotary_dim_divisor, dtype, return_state, cu_seqlens)
    if not fuse_pregate_headwise_rms_norm:
        return ops.mamba3_mimo(*shared, MIMO_Z, MIMO_Out, Angles, D, Z, *options)
    if Z is None or MIMO_Z is None or MIMO_Out is None:
        raise ArgumentError(
            "shape",
            _("mamba3_mimo: fuse_pregate_headwise_rms_norm needs Z, MIMO_Z and MIMO_Out"),
        )
    whole: Any = ops.mamba3_mimo(*shared, None, None, Angles, D, None, *options)
    y, *states = whole if return_state else (whole,)
    wide = torch.promote_types(y.dtype, torch.float32)
    nheads, headdim = V.shape[2:]
    weight = y.new_ones(nheads * headdim, dtype=wide) if outproj_norm_weight is None else outproj_norm_weight.flatten()
    gate = Z.to(wide).unsqueeze(2) * MIMO_Z.to(wide).transpose(0, 1)  # (batch, length, rank, nheads, headdim)
    normed: Any = ops.rmsnorm_fn(
        y.to(wide).flatten(-2), weight, None, z=gate.flatten(-2), eps=outproj_norm_eps, group_size=headdim, norm_before_gate=True
    )
    out = (normed.unflatten(-1, (nheads, headdim)) * MIMO_Out.to(wide).transpose(0, 1)).sum(2).to(y.dtype)
    return (out, *states) if return_state else out


mamba3_mimo = counted(__name__, mamba3_mimo)

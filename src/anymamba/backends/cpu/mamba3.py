"""Mamba-3 on the CPU: the kernels of Mamba-2's scan over tokens shifted by one (backends/torch/mamba3.py has the algebra)."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.backends.cpu.ssd.ssd import Scan, carries
from anymamba.backends.cpu.ssd.ssd import supports as supports
from anymamba.backends.torch.mamba3 import serve_mimo, serve_siso


def mamba3_siso(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ADT: Tensor,
    DT: Tensor,
    Trap: Tensor,
    Q_bias: Tensor,
    K_bias: Tensor,
    Angles: Tensor,
    D: Tensor | None = None,
    Z: Tensor | None = None,
    angle_state: Tensor | None = None,
    ssm_state: Tensor | None = None,
    k_state: Tensor | None = None,
    v_state: Tensor | None = None,
    chunk_size: int = 64,
    return_final_states: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """See anymamba.ops.mamba3_siso. V, Z: (batch, length, nheads, headdim), any strides. chunk_size does not change the result."""
    states = (angle_state, ssm_state, k_state, v_state)
    return serve_siso(_scan, Q, K, V, ADT, DT, Trap, Q_bias, K_bias, Angles, D, Z, states, return_final_states, cu_seqlens)


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
) -> Tensor | tuple[Tensor, ...]:
    """See anymamba.ops.mamba3_mimo. V, Z: (batch, length, nheads, headdim), any strides. chunk_size does not change the result."""
    projections = MIMO_V, MIMO_Z, MIMO_Out
    return serve_mimo(_scan, Q, K, V, ADT, DT, Trap, Q_bias, K_bias, projections, Angles, D, Z, dtype, return_state, cu_seqlens)


def _scan(
    x: Tensor,
    weights: Tensor,
    exponents: Tensor,
    B: Tensor,
    C: Tensor,
    initial_states: Tensor | None,
    seq_idx: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As backends.torch.ssd.scan, in float32: x (batch, length, nheads, headdim), weights, exponents (batch, length, nheads)."""
    wide = weights.dtype
    if not x.shape[1]:
        start = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[3]) if initial_states is None else initial_states
        return x.to(wide), start.to(wide)
    carry = None if seq_idx is None else carries(seq_idx, seq_idx < 0)
    unused = weights.new_zeros(x.shape[2], dtype=torch.float32)
    steps, exponents = (t.float().mT.contiguous() for t in (weights, exponents))
    y, state = Scan.apply(
        x.float(), steps, unused, B.float(), C.float(), None, None, initial_states, carry, exponents, True
    )
    return y.to(wide), state.to(wide)

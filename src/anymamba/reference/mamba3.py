"""The Mamba-3 recurrence, token by token (Mamba-3, section 3; ``mamba3_siso_combined.py`` and ``mamba3_mimo.py`` of mamba_ssm).

angle[t] = angle[t-1] + pi tanh(Angles[t]) DT[t] mod 2 pi            q[t], k[t] = rotate(Q[t] + Q_bias, K[t] + K_bias by angle[t])
S[t] = a[t] S[t-1] + (1 - trap[t]) DT[t] a[t] v[t-1] k[t-1]^T + trap[t] DT[t] v[t] k[t]^T,  a = exp(ADT), trap = sigmoid(Trap)
y[t] = S[t] q[t] + D v[t]                                            out[t] = y[t] * silu(z[t])

MIMO has ``rank`` keys, queries and values a token: v[r] = V * MIMO_V[r], z[r] = Z * MIMO_Z[r], S sums v[r] k[r]^T over r, and
out = sum over r of out[r] * MIMO_Out[r].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.reference import supports as supports
from anymamba.reference.arithmetic import working_dtype


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
    """Q, K (batch, length, ngroups, d_state), head i uses group i // (nheads // ngroups); V, Z (batch, length, nheads, headdim);
    ADT, DT, Trap (batch, nheads, length); Q_bias, K_bias (nheads, d_state); Angles (batch, length, nheads, num_angles) turn the first
    num_angles neighbouring pairs of q and k; D (nheads,). chunk_size changes no result.

    cu_seqlens (sequences + 1,): batch is 1 and its row holds that many sequences, none of which sees another. The four states come
    together or not at all: angle_state (sequences or batch, nheads, num_angles), ssm_state (.., nheads, headdim, d_state),
    k_state (.., nheads, d_state), after bias and rotation, v_state (.., nheads, headdim).

    Returns out, shaped and typed like V, or with return_final_states (out, angle, ssm, k, v state after the last token)."""
    dtype = working_dtype(Q, K, V, ADT, DT, Trap, Q_bias, K_bias, Angles, D, Z, ssm_state)
    nheads = V.shape[2]
    q, k = (
        (M.to(dtype).repeat_interleave(nheads // M.shape[2], dim=2) + bias.to(dtype)).unsqueeze(2)
        for M, bias in ((Q, Q_bias), (K, K_bias))
    )
    v = V.to(dtype)
    states: tuple[Tensor, ...] | None = None
    if ssm_state is not None:
        assert angle_state is not None and k_state is not None and v_state is not None
        states = angle_state, ssm_state, k_state.unsqueeze(1), v_state
    ones = torch.ones(1, nheads, V.shape[3], dtype=dtype, device=V.device)
    y, (angle, ssm, last_k, last_v) = _by_sequence(
        q, k, v, ones, ADT.to(dtype), DT.to(dtype), Trap.to(dtype), Angles.to(dtype), True, states, cu_seqlens
    )
    y = y.squeeze(2)
    if D is not None:
        y = y + D.to(dtype)[:, None] * v
    if Z is not None:
        y = y * F.silu(Z.to(dtype))
    out = y.to(V.dtype)
    return (out, angle, ssm, last_k.squeeze(1), last_v.to(V.dtype)) if return_final_states else out


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
    """As mamba3_siso, with Q, K (batch, length, rank, ngroups, d_state), Q_bias, K_bias (nheads, rank, d_state), MIMO_V, MIMO_Z,
    MIMO_Out (nheads, rank, headdim). Angle i turns the pair (i, d_state / 2 + i). dtype: of the output (None: that of V).

    Returns out (batch, length, nheads, headdim), or (batch, length, rank, nheads, headdim) when MIMO_Out is None; with return_state
    (out, angle, ssm, k (.., rank, nheads, d_state), v state after the last token)."""
    wide = working_dtype(Q, K, V, ADT, DT, Trap, Q_bias, K_bias, MIMO_V, MIMO_Z, MIMO_Out, Angles, D, Z)
    nheads = V.shape[2]
    q, k = (
        M.to(wide).repeat_interleave(nheads // M.shape[3], dim=3) + bias.to(wide).transpose(0, 1)
        for M, bias in ((Q, Q_bias), (K, K_bias))
    )
    up = MIMO_V.to(wide).transpose(0, 1)
    v = V.to(wide)
    y, states = _by_sequence(q, k, v, up, ADT.to(wide), DT.to(wide), Trap.to(wide), Angles.to(wide), False, None, cu_seqlens)
    if D is not None:
        y = y + D.to(wide)[:, None] * (v.unsqueeze(2) * up)
    if Z is not None:
        assert MIMO_Z is not None
        y = y * F.silu(Z.to(wide).unsqueeze(2) * MIMO_Z.to(wide).transpose(0, 1))
    if MIMO_Out is not None:
        y = (y * MIMO_Out.to(wide).transpose(0, 1)).sum(2)
    out = y.to(dtype or V.dtype)
    return (out, *states[:3], states[3].to(V.dtype)) if return_state else out


def rotate(x: Tensor, angle: Tensor, neighbours: bool) -> Tensor:
    """Turns pairs of the last axis of x by angle (..., num_angles): pair i is (2i, 2i + 1) if neighbours, else (i, d_state / 2 + i).
    What belongs to no such pair stays."""
    count, half = angle.shape[-1], x.shape[-1] // 2
    if neighbours:
        first, second = x[..., 0 : 2 * count : 2], x[..., 1 : 2 * count : 2]
    else:
        first, second = x[..., :count], x[..., half : half + count]
    one, other = first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()
    if neighbours:
        return torch.cat([torch.stack([one, other], dim=-1).flatten(-2), x[..., 2 * count :]], dim=-1)
    return torch.cat([one, x[..., count:half], other, x[..., half + count :]], dim=-1)


def _by_sequence(
    q: Tensor, k: Tensor, v: Tensor, up: Tensor, ADT: Tensor, DT: Tensor, Trap: Tensor, Angles: Tensor, neighbours: bool,
    states: tuple[Tensor, ...] | None, cu_seqlens: Tensor | None,
) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
    if cu_seqlens is None:
        return _recurrence(q, k, v, up, ADT, DT, Trap, Angles, neighbours, states)
    outputs, finals = [], []
    borders = cu_seqlens.tolist()
    for i, (first, end) in enumerate(zip(borders[:-1], borders[1:])):
        part = slice(first, end)
        own = None if states is None else tuple(state[i : i + 1] for state in states)
        scalars = ADT[:, :, part], DT[:, :, part], Trap[:, :, part]
        y, final = _recurrence(q[:, part], k[:, part], v[:, part], up, *scalars, Angles[:, part], neighbours, own)
        outputs.append(y)
        finals.append(final)
    return torch.cat(outputs, dim=1), tuple(torch.cat(parts) for parts in zip(*finals))


def _recurrence(
    q: Tensor, k: Tensor, v: Tensor, up: Tensor, ADT: Tensor, DT: Tensor, Trap: Tensor, Angles: Tensor, neighbours: bool,
    states: tuple[Tensor, ...] | None,
) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
    """q, k (batch, length, rank, nheads, d_state) with their biases, v (batch, length, nheads, headdim), up (rank, nheads, headdim).
    Returns S q (batch, length, rank, nheads, headdim) and the states."""
    batch, length, rank, nheads, d_state = q.shape
    if states is None:
        angle = q.new_zeros(batch, nheads, Angles.shape[3])
        state = q.new_zeros(batch, nheads, v.shape[3], d_state)
        k_before, v_before = q.new_zeros(batch, rank, nheads, d_state), q.new_zeros(batch, nheads, v.shape[3])
    else:
        angle, state, k_before, v_before = (given.to(q.dtype) for given in states)
    outputs = []
    for t in range(length):
        step, trap = DT[:, :, t], torch.sigmoid(Trap[:, :, t])
        angle = torch.remainder(angle + math.pi * torch.tanh(Angles[:, t]) * step[..., None], 2 * math.pi)
        q_now, k_now = (rotate(x[:, t], angle.unsqueeze(1), neighbours) for x in (q, k))
        decay = torch.exp(ADT[:, :, t])
        before, now = (torch.einsum("brhp,brhn->bhpn", x.unsqueeze(1) * up, key) for x, key in ((v_before, k_before), (v[:, t], k_now)))
        weights = decay, (1 - trap) * step * decay, trap * step
        state = sum(weight[..., None, None] * term for weight, term in zip(weights, (state, before, now)))  # type: ignore[assignment]
        outputs.append(torch.einsum("bhpn,brhn->brhp", state, q_now))
        k_before, v_before = k_now, v[:, t]
    y = torch.stack(outputs, dim=1) if outputs else q.new_zeros(batch, 0, rank, nheads, v.shape[3])
    return y, (angle, state, k_before, v_before)

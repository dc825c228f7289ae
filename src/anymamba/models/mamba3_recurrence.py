"""Mamba-3 token by token from a given state, in plain PyTorch and differentiable: for training in pieces where no scan takes a state."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.backends.torch.mamba3_rotation import rotated


def recurrence(
    state: Sequence[Tensor],
    C: Tensor,
    B: Tensor,
    x: Tensor,
    z: Tensor,
    A: Tensor,
    dt: Tensor,
    trap: Tensor,
    angles: Tensor,
    C_bias: Tensor,
    B_bias: Tensor,
    D: Tensor,
    up: Tensor,
    down: Tensor | None,
    gate: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """The formula of ``ops.mamba3_state_update``, for every token of a piece.

    state: angle (batch, nheads, num_angles), ssm (batch, nheads, headdim, d_state), the last key (batch, rank, nheads, d_state) and value
    (batch, nheads, headdim). B, C: (batch, length, rank, ngroups, d_state), normed. x, z: (batch, length, nheads, headdim). A, dt, trap
    (between 0 and 1): (batch, length, nheads). angles: (batch, length, nheads, num_angles). B_bias, C_bias: (nheads, rank, d_state).
    up, down, gate: (rank, nheads, headdim); without down neither the gate nor the sum over ranks is applied.

    Returns y (batch, length, nheads, headdim), without down (batch, length, rank, nheads, headdim), and the state after the last token.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    angle, ssm, key, value = (part.to(wide) for part in state)
    repeats = x.shape[2] // B.shape[3]
    outputs = []
    for t in range(x.shape[1]):
        token, step, share = x[:, t].to(wide), dt[:, t].to(wide), trap[:, t].to(wide)
        angle = angle + math.pi * torch.tanh(angles[:, t].to(wide)) * step.unsqueeze(-1)
        query, new_key = (
            rotated(part[:, t].repeat_interleave(repeats, dim=2).unsqueeze(1), bias.transpose(0, 1), angle.unsqueeze(1), False).squeeze(1)
            for part, bias in ((C, C_bias), (B, B_bias))
        )
        decay = torch.exp(A[:, t].to(wide) * step)
        earlier, now = (torch.einsum("bhp,rhp,brhn->bhpn", v, up.to(wide), k.to(wide)) for v, k in ((value, key), (token, new_key)))
        per_head = (decay, (1 - share) * step * decay, share * step)
        ssm = sum((factor[..., None, None] * term for factor, term in zip(per_head, (ssm, earlier, now))), torch.zeros_like(ssm))
        y = torch.einsum("bhpn,brhn->brhp", ssm, query.to(wide)) + D.to(wide)[:, None] * token.unsqueeze(1) * up.to(wide)
        if down is not None and gate is not None:
            y = (y * F.silu(z[:, t].to(wide).unsqueeze(1) * gate.to(wide)) * down.to(wide)).sum(1)
        outputs.append(y)
        key, value = new_key, token
    return torch.stack(outputs, 1).to(x.dtype), [torch.remainder(angle, 2 * math.pi), ssm, key, value]

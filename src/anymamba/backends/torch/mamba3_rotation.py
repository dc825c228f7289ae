"""The turning queries and keys of Mamba-3: running angles, and bias and rotation in one pass."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.torch.precision import has_float64
from anymamba.backends.transforms import transformed


def running_angles(
    Angles: Tensor, DT: Tensor, angle_state: Tensor | None, begins: Tensor | None, wide: torch.dtype
) -> Tensor:
    """angle[t] = angle[t-1] + pi tanh(Angles[t]) DT[t], between 0 and 2 pi: (batch, length, nheads, num_angles) in dtype wide.

    Angles: (batch, length, nheads, num_angles). DT: (batch, length, nheads). angle_state: (batch, 1 or length, nheads, num_angles), that
    before a token's sequence. begins: (length,), the first token of each token's sequence, where a row holds several; the sum restarts
    there. The sum of a long sequence is thousands of turns, of which the fraction counts: it is taken in float64 where the device
    has it."""
    exact = torch.float64 if has_float64(Angles.device) else wide
    turns = (torch.tanh(Angles.to(wide)) * (DT.to(wide) * math.pi).unsqueeze(-1)).to(exact)
    total = turns.cumsum(1)
    if begins is not None:
        total = total - (total - turns).index_select(1, begins)
    if angle_state is not None:
        total = total + angle_state.to(exact)
    return torch.remainder(total, 2 * math.pi).to(wide)


def packed_tokens(cu_seqlens: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The number of each token's sequence and that sequence's first token: (length,) int64. cu_seqlens: from 0 to length."""
    positions = torch.arange(length, device=cu_seqlens.device)
    sequence = torch.searchsorted(cu_seqlens[1:].contiguous(), positions, right=True)
    return sequence, cu_seqlens.long()[sequence]


def rotated(x: Tensor, bias: Tensor, angles: Tensor, neighbours: bool) -> Tensor:
    """rotate(x + bias by angles) for every head: (batch, length, rank, nheads, d_state) in the dtype of angles.

    x: (batch, length, rank, ngroups, d_state), ngroups dividing nheads. bias: (rank, nheads, d_state). angles: (batch, length, nheads,
    num_angles). Pair i of the last axis is (2i, 2i + 1) if neighbours, else (i, d_state / 2 + i); d_state is even."""
    return (_turned if transformed() else _Rotated.apply)(x, bias, angles, neighbours)


class _Rotated(torch.autograd.Function):
    """Keeps its output and the angles alone: the gradient of an angle needs the pair as turned, which the scan keeps anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, angles: Tensor, neighbours: bool) -> Tensor:
        nheads, groups = bias.shape[1], x.shape[3]
        out = x.unsqueeze(4) + bias.to(angles.dtype).unflatten(1, (groups, nheads // groups))
        out = out.flatten(3, 4)
        cos, sin = angles.cos().unsqueeze(2), angles.sin().unsqueeze(2)
        _turn_(out, cos, sin, neighbours)
        ctx.save_for_backward(out, cos, sin, angles)
        ctx.neighbours, ctx.groups, ctx.dtypes = neighbours, groups, (x.dtype, bias.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        out, cos, sin, angles = ctx.saved_tensors
        again = torch.is_grad_enabled()  # create_graph=True: a graph of the gradient, back to the angles
        if again:
            cos, sin = angles.cos().unsqueeze(2), angles.sin().unsqueeze(2)
        dtype, bias_dtype = ctx.dtypes
        dangles = None
        if ctx.needs_input_grad[2]:
            (a, b), (da, db) = (_pairs(t, cos.shape[-1], ctx.neighbours) for t in (out, gradient))
            dangles = torch.addcmul(db * a, da, b, value=-1).sum(2)
        if again:
            back = _turn(gradient, cos, -sin, ctx.neighbours)
        else:
            back = gradient.clone(memory_format=torch.contiguous_format)
            _turn_(back, cos, -sin, ctx.neighbours)
        dbias = back.sum((0, 1)).to(bias_dtype) if ctx.needs_input_grad[1] else None
        dx = back.unflatten(3, (ctx.groups, -1)).sum(4).to(dtype) if ctx.needs_input_grad[0] else None
        return dx, dbias, dangles, None


def _turned(x: Tensor, bias: Tensor, angles: Tensor, neighbours: bool) -> Tensor:
    """``_Rotated`` in operations that torch itself differentiates and transforms."""
    groups = x.shape[3]
    both = x.unsqueeze(4) + bias.to(angles.dtype).unflatten(1, (groups, bias.shape[1] // groups))
    return _turn(both.flatten(3, 4), angles.cos().unsqueeze(2), angles.sin().unsqueeze(2), neighbours)


def _pairs(x: Tensor, count: int, neighbours: bool) -> tuple[Tensor, Tensor]:
    """The first and the second partners of the pairs that turn, as views."""
    if neighbours:
        return x[..., 0 : 2 * count : 2], x[..., 1 : 2 * count : 2]
    half = x.shape[-1] // 2
    return x[..., :count], x[..., half : half + count]


def _turn(x: Tensor, cos: Tensor, sin: Tensor, neighbours: bool) -> Tensor:
    a, b = _pairs(x, cos.shape[-1], neighbours)
    turned = a * cos - b * sin, b * cos + a * sin
    count, half = cos.shape[-1], x.shape[-1] // 2
    if neighbours:
        return torch.cat([torch.stack(turned, -1).flatten(-2), x[..., 2 * count :]], -1)
    return torch.cat([turned[0], x[..., count:half], turned[1], x[..., half + count :]], -1)


def _turn_(x: Tensor, cos: Tensor, sin: Tensor, neighbours: bool) -> None:
    """In place. cos, sin: (.., nheads, num_angles)."""
    a, b = _pairs(x, cos.shape[-1], neighbours)
    turned = a * cos - b * sin
    b.mul_(cos).addcmul_(a, sin)
    a.copy_(turned)

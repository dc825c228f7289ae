"""Mixtures of experts (Shazeer et al. 2017): each token goes through a few of many MLPs. Tokens are grouped by expert; an expert that no
token chose costs nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from anymamba.models.plain import plain_class
from anymamba.ops.projection import linear


@plain_class
class Experts(nn.Module):
    """The MLPs of all experts. up: (experts, width or 2 * width, size), down: (experts, size, width); gated: the first half of ``up`` is
    the gate, whose activation the second half is multiplied by."""

    def __init__(self, experts: int, size: int, width: int, act: Callable[[Tensor], Tensor], gated: bool, std: float) -> None:
        super().__init__()
        self.act, self.gated = act, gated
        self.up = nn.Parameter(torch.empty(experts, (2 if gated else 1) * width, size))
        self.down = nn.Parameter(torch.empty(experts, size, width))
        if not self.up.is_meta:
            nn.init.normal_(self.up, std=std)
            nn.init.normal_(self.down, std=std)

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """x: (tokens, size); chosen: (tokens, k) numbers of experts; weights: (tokens, k). Sums over k in float32: (tokens, size)."""
        count = chosen.shape[1]
        if x.shape[0] == 1 and x.device.type == "cpu":
            parts = [self._expert(number, x) for number in chosen[0].tolist()]
            return (torch.cat(parts).float() * weights[0, :, None].float()).sum(0, keepdim=True).to(x.dtype)
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        rows = x[order // count]
        counts = torch.bincount(flat, minlength=self.up.shape[0]).tolist()
        used = [(number, tokens) for number, tokens in enumerate(counts) if tokens]
        parts = [self._expert(number, part) for (number, __), part in zip(used, rows.split([tokens for __, tokens in used]))]
        # back to the tokens' own order, so that each sums its experts in the order of its choice: the same in every batch
        y = torch.cat(parts)[order.argsort()].unflatten(0, (-1, count))
        return (y.float() * weights.unsqueeze(-1).float()).sum(1).to(x.dtype)

    def _expert(self, number: int, x: Tensor) -> Tensor:
        y = linear(x, self.up[number])
        if self.gated:
            gate, y = y.chunk(2, dim=-1)
            y = self.act(gate) * y
        else:
            y = self.act(y)
        return linear(y, self.down[number])


@plain_class
class Router(nn.Module):
    """weight: (experts, size). forward: x (tokens, size) -> scores (tokens, experts), float32."""

    def __init__(self, experts: int, size: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, size))
        if not self.weight.is_meta:
            nn.init.normal_(self.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight).float()

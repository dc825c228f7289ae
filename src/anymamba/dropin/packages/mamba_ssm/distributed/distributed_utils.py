"""Sums over a process group, differentiable."""

from __future__ import annotations

from typing import Any

import torch.distributed.nn.functional as collective
from torch import Tensor


def all_reduce(input_: Tensor, process_group: Any) -> Tensor:
    """The sum over the group, on every member."""
    return collective.all_reduce(input_, group=process_group)


def reduce_scatter(input_: Tensor, process_group: Any) -> Tensor:
    """The sum over the group; each member keeps its part of the first axis."""
    parts = list(input_.chunk(process_group.size(), dim=0))
    return collective.reduce_scatter(parts[0].new_empty(parts[0].shape), parts, group=process_group)


def all_gather(input_: Tensor, process_group: Any) -> Tensor:
    """The parts of all members, joined along the first axis."""
    import torch

    return torch.cat(list(collective.all_gather(input_, group=process_group)), dim=0)

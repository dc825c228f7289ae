"""What a backend is told about a call before it says yes or no. Nothing here depends on the values in the tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

MANY_HEADS = 128
"""Heads of all sequences together, in Mamba-3, that fill a large GPU where a program walks through each."""


@dataclass(frozen=True)
class Call:
    """op: public name of the op. device, dtype: of the activations. grad: is a backward pass needed.

    features: the options in use, named like the op's parameters ("z", "seq_idx", "initial_states", ...), and properties of
    the inputs that a kernel may not cover ("complex_A", "constant_B", "D_per_channel", ...).
    sizes: sizes that a kernel may be limited by or specialised for, sorted: (("d_state", 16), ("width", 4)).
    """

    op: str
    device: torch.device
    dtype: torch.dtype
    grad: bool = False
    features: frozenset[str] = frozenset()
    sizes: tuple[tuple[str, int], ...] = ()

    def size(self, name: str, default: int | None = None) -> int:
        """The size of that name; where the op does not state it the default, without one KeyError."""
        sizes = dict(self.sizes)
        return sizes[name] if default is None else sizes.get(name, default)


def op_of(function: Callable[..., Any]) -> str:
    """The op's name: that of the function, or its attribute ``op`` where it takes more than upstream's function of that name."""
    return getattr(function, "op", function.__name__)

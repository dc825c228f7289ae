"""The decay rate of Mamba-3, which each token chooses: A = -f(logit), at most -floor.

f is softplus in mamba_ssm 2.3.2.post1 and in flash-linear-attention, and the heavy tail in mamba_ssm's main branch since June 2026
(``heavy_tail_activation``, its pull request 962): stabler where the learning rate is high. The weights do not say with which of the two
they were trained, and with the other one a model computes without complaint, and badly.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = ("softplus", "heavy_tail")


def decay_rate(logits: Tensor, activation: str, floor: float) -> Tensor:
    """A of any shape, like logits (float32 or float64), negative. activation: one of ACTIVATIONS. floor: the slowest decay, positive."""
    positive = heavy_tail(logits) if activation == "heavy_tail" else F.softplus(logits)
    return (-positive).clamp(max=-floor)


def heavy_tail(x: Tensor) -> Tensor:
    """1 + x from 0 on, 1 / (1 - x) below: positive, and with one slope at 0."""
    # each part is constant where the other one counts, so that neither branch can divide by zero
    return F.relu(x) + (1 - x.clamp(max=0)).reciprocal()

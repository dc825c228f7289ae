"""AdamW with two groups: weights that decay, and those that must not."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def decays(name: str, parameter: torch.Tensor) -> bool:
    """False for what upstream marks ``_no_weight_decay`` (A_log, D, dt_bias), for every bias and for every norm.

    Decaying A_log or D would pull the time scales of the state towards one value; upstream: mamba_ssm/modules/mamba_simple.py,
    mamba2.py. Norms and biases are the parameters with one axis.
    """
    return not getattr(parameter, "_no_weight_decay", False) and not name.endswith(".bias") and parameter.dim() > 1


def decaying_names(model: nn.Module) -> set[str]:
    """The names of the parameters that decay. Ask before sharding: a sharded parameter is a new object without its marks."""
    return {name for name, parameter in model.named_parameters() if decays(name, parameter)}


def adamw(
    parameters: Iterable[tuple[str, torch.Tensor]],
    decaying: set[str],
    rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    device: torch.device,
) -> torch.optim.AdamW:
    """One AdamW over (name, parameter) pairs; its fused kernel where torch has one for the device."""
    groups: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for name, parameter in parameters:
        if parameter.requires_grad:
            groups[name not in decaying].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups[0], "weight_decay": weight_decay},
            {"params": groups[1], "weight_decay": 0.0},
        ],
        lr=rate,
        betas=betas,
        eps=1e-8,
        fused=device.type in ("cpu", "cuda", "xpu", "mps"),
    )

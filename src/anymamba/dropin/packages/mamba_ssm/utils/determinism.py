"""The switch for deterministic kernels: anymamba's are deterministic anyway, so it only keeps what was set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_mode: bool | None = None


def use_deterministic_mode() -> bool:
    """What set_deterministic_mode was given, else MAMBA_DETERMINISTIC, else torch's own switch."""
    if _mode is not None:
        return _mode
    value = os.environ.get("MAMBA_DETERMINISTIC")
    return value.lower() in ("1", "true", "yes", "on") if value else torch.are_deterministic_algorithms_enabled()


def set_deterministic_mode(value: bool | None) -> None:
    """True, False, or None to follow the environment again."""
    global _mode
    _mode = value


def autotune_configs(configs: Any) -> Any:
    """The configurations as they are: nothing of this package is tuned by Triton's autotuner."""
    return configs


def alloc_tile_workspace(
    base_shape: Sequence[int] | None,
    tile_dim: int,
    dtype: torch.dtype,
    device: Any,
    deterministic: bool,
    *,
    zero_init: bool = True,
) -> tuple[Tensor | None, int]:
    """Room for a sum over tiles: base_shape, and when deterministic a last axis of tile_dim partial sums, with its stride (else 0)."""
    if base_shape is None:
        return None, 0
    if not deterministic:
        return torch.empty(*base_shape, device=device, dtype=dtype), 0
    make = torch.zeros if zero_init else torch.empty
    workspace = make(*base_shape, tile_dim, device=device, dtype=dtype)
    return workspace, workspace.stride(-1)


def finalize_tile_workspace(tensor: Tensor | None, deterministic: bool) -> Tensor | None:
    """The sum over the tiles of such a workspace."""
    return tensor.sum(dim=-1) if tensor is not None and deterministic else tensor

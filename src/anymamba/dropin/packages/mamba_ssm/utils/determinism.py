"""The switch for deterministic kernels: anymamba's are deterministic anyway, so it only keeps what was set."""

from __future__ import annotations

import os
from typing import Any

import torch

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

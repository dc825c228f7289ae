"""In which precision this backend computes: float32 for half inputs, float64 for float64, whatever autocast says."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def wide_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 if any of the tensors is float64 (or complex128), else float32: the dtype of states, sums and decay factors."""
    double = any(t is not None and t.dtype in (torch.float64, torch.complex128) for t in tensors)
    return torch.float64 if double else torch.float32


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Switches autocast off on this device: it would turn the scans' matrix products into half precision."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def has_float64(device: torch.device) -> bool:
    """Apple's GPUs have none."""
    return device.type != "mps"

"""Facts about a GPU that plans of kernels are made from."""

from __future__ import annotations

import functools

import torch


@functools.cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors, or compute units."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    if device.type == "xpu":
        return torch.xpu.get_device_properties(device).max_compute_units
    return 2


def is_nvidia(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.hip is None


@functools.cache
def has_float64(device: torch.device) -> bool:
    """Some of Intel's GPUs have none."""
    return device.type != "xpu" or bool(torch.xpu.get_device_properties(device).has_fp64)


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a program may have."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return int(getattr(properties, "shared_memory_per_block_optin", 0) or (64 if torch.version.hip else 99) * 1024)
    return 64 * 1024


@functools.cache
def lanes(device: torch.device) -> int:
    """Threads of a warp (wavefront): 64 on AMD's CDNA, else 32."""
    if device.type == "cuda" and torch.version.hip is not None:
        return torch.cuda.get_device_properties(device).warp_size
    return 32


def matrix_unit_for_float32(device: torch.device) -> bool:
    """Does tl.dot of float32 run on a matrix unit: NVIDIA (tf32) and AMD's CDNA; elsewhere it would be slow."""
    return device.type == "cuda" and (torch.version.hip is None or lanes(device) == 64)

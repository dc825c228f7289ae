"""What a launch needs to know about the device that it runs on."""

from __future__ import annotations

import contextlib
import functools

import torch
import triton
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.language import say


def interpreted() -> bool:
    """Do kernels run in Triton's interpreter, on CPU tensors (TRITON_INTERPRET=1)."""
    return bool(triton.knobs.runtime.interpret) if hasattr(triton, "knobs") else _interpret_variable()


def _interpret_variable() -> bool:
    import os

    return os.environ.get("TRITON_INTERPRET", "0") == "1"


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


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the tensor's."""
    if tensor.device.type == "cuda":
        return torch.cuda.device(tensor.device)
    if tensor.device.type == "xpu":
        return torch.xpu.device(tensor.device)
    return contextlib.nullcontext()


def power_of_2(size: int) -> int:
    """The smallest power of 2 that is at least size."""
    return 1 << (size - 1).bit_length()


def runs_here(call: Call) -> tuple[bool, str]:
    """What every op asks first: a device and a dtype that the kernels know."""
    if call.device.type == "cpu" and not interpreted():
        return False, say("kernels are for GPU tensors", "内核仅用于 GPU 张量")
    if call.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        name = str(call.dtype).removeprefix("torch.")
        return False, say(f"has float32, bfloat16 and float16 kernels, not {name}", f"内核支持 float32、bfloat16、float16，不支持 {name}")
    return True, say("Triton kernel", "Triton 内核")

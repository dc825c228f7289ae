"""What a launch needs to know about the device that it runs on."""

from __future__ import annotations

import contextlib

import torch
import triton
from torch import Tensor

from anymamba import announce
from anymamba.backends.accelerator import (
    has_float64,
    is_nvidia,
    lanes,
    matrix_unit_for_float32,
    processors,
    shared_memory,
)
from anymamba.backends.call import Call
from anymamba.backends.triton.announcing import announce_compilation
from anymamba.language import _

__all__ = [
    "has_float64", "interpreted", "is_nvidia", "lanes", "matrix_unit_for_float32", "on_device", "power_of_2", "processors", "runs_here",
    "shared_memory",
]  # fmt: skip


if announce.heard():  # every kernel's module imports this one before it compiles
    announce_compilation()


def interpreted() -> bool:
    """Do kernels run in Triton's interpreter, on CPU tensors (TRITON_INTERPRET=1)."""
    return bool(triton.knobs.runtime.interpret) if hasattr(triton, "knobs") else _interpret_variable()


def _interpret_variable() -> bool:
    import os

    return os.environ.get("TRITON_INTERPRET", "0") == "1"


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
        return False, _("kernels are for GPU tensors")
    if call.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        name = str(call.dtype).removeprefix("torch.")
        return False, _("has float32, bfloat16 and float16 kernels, not {name}").format(name=name)
    return True, _("Triton kernel")

"""CUDA C++ for NVIDIA cards, compiled when it is first used by NVRTC, which PyTorch's CUDA wheels bring along: for what Triton cannot say,
which lane holds what. All other ops are left to Triton's kernels.
"""

from __future__ import annotations

import torch

from anymamba.backends.machine import library_version
from anymamba.language import _

OPS: dict[str, str] = {
    "selective_scan_fn": "anymamba.backends.cuda.selective_scan",
    "causal_conv1d_fn": "anymamba.backends.cuda.causal_conv1d",
    "mamba_inner_fn": "anymamba.backends.cuda.mamba_inner",
    "decode_step": "anymamba.backends.cuda.decode_step",
}


def available() -> tuple[bool, str]:
    """Is there an NVIDIA GPU that PyTorch can use, and an NVRTC that compiles for it."""
    if torch.version.hip is not None or not torch.cuda.is_available():
        return False, _("no NVIDIA GPU that PyTorch can use")
    from anymamba.backends.cuda import nvrtc

    return nvrtc.usable(torch.device("cuda", torch.cuda.current_device()))


def versions() -> str:
    """Of NVRTC, and of Triton, whose convolution is inside mamba_inner_fn."""
    from anymamba.backends.cuda import nvrtc, nvrtc_program

    major, minor = nvrtc_program.version(nvrtc.library())
    return f"nvrtc {major}.{minor} triton {library_version('triton') or library_version('triton-windows')}"

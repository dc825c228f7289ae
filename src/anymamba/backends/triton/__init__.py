"""Triton kernels, compiled for whatever GPU is there when they are first used: NVIDIA from sm_80 on, AMD, Windows through triton-windows.

Nothing here needs nvcc. With TRITON_INTERPRET=1 in the environment the same kernels run on CPU tensors in Triton's interpreter,
very slowly: that is how the tests check them where there is no GPU. triton is imported by the op modules, not by this one.
"""

from __future__ import annotations

import importlib.util

import torch

from anymamba.backends.machine import library_version
from anymamba.language import _

OPS: dict[str, str] = {
    "causal_conv1d_fn": "anymamba.backends.triton.conv.causal_conv1d",
    "causal_conv1d_update": "anymamba.backends.triton.conv.causal_conv1d",
    "selective_scan_fn": "anymamba.backends.triton.scan.selective_scan",
    "mamba_inner_fn": "anymamba.backends.triton.scan.mamba_inner",
    "selective_state_update": "anymamba.backends.triton.scan.selective_state_update",
    "mamba_chunk_scan_combined": "anymamba.backends.triton.ssd.ssd",
    "mamba3_siso": "anymamba.backends.triton.mamba3.scan",
    "mamba3_mimo": "anymamba.backends.triton.mamba3.scan",
    "mamba3_state_update": "anymamba.backends.triton.mamba3.state_update",
    "layer_norm_fn": "anymamba.backends.triton.norm.norm",
    "rms_norm_fn": "anymamba.backends.triton.norm.norm",
    "layernorm_fn": "anymamba.backends.triton.norm.norm_gated",
    "rmsnorm_fn": "anymamba.backends.triton.norm.norm_gated",
    "log_softmax_and_slope": "anymamba.backends.triton.cross_entropy",
}

LEFT_TO_TORCH = frozenset({"widened_product", "decode_step"})
"""GPUs multiply 16 bits themselves: the first is only asked for on processors. The second is the model's own step, whose ops are these,
replayed as a graph."""


def available() -> tuple[bool, str]:
    """Is there a triton and a GPU that it drives, or is its interpreter asked for."""
    if importlib.util.find_spec("triton") is None:
        return False, _("triton is not installed")
    from anymamba.backends.triton.launch import interpreted

    if interpreted():
        return True, _("Triton's interpreter (TRITON_INTERPRET=1), for tests")
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        if torch.version.hip is None and major < 8:
            return False, _("this GPU has compute capability {major}.{minor}; the kernels need 8.0").format(
                major=major, minor=minor
            )
        return True, _("compiles for {gpu}").format(gpu=torch.cuda.get_device_name())
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return True, _("compiles for the Intel GPU")
    return False, _("no GPU that PyTorch can use")


def versions() -> str:
    return f"triton {library_version('triton') or library_version('triton-windows')} cuda {torch.version.cuda} hip {torch.version.hip}"

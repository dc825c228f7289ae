"""Kernels for processors, compiled when first run by LLVM through llvmlite: no compiler, no prebuilt binary of ours.

Lanes are channels: a vector holds 16 (AVX-512), 8 (AVX2) or 4 (SSE, NEON) neighbouring channels of one token, so the layout
(batch, length, channels) that matrix products produce is read as it lies. ``jit/emit.py`` says how kernels are written.
"""

from __future__ import annotations

import functools

from anymamba.language import _

OPS: dict[str, str] = {
    "causal_conv1d_fn": "anymamba.backends.cpu.conv.causal_conv1d",
    "causal_conv1d_update": "anymamba.backends.cpu.conv.causal_conv1d",
    "selective_scan_fn": "anymamba.backends.cpu.scan.selective_scan",
    "mamba_chunk_scan_combined": "anymamba.backends.cpu.ssd.ssd",
    "mamba3_siso": "anymamba.backends.cpu.mamba3",
    "mamba3_mimo": "anymamba.backends.cpu.mamba3",
    "layer_norm_fn": "anymamba.backends.cpu.norm.norm",
    "rms_norm_fn": "anymamba.backends.cpu.norm.norm",
    "layernorm_fn": "anymamba.backends.cpu.norm.norm_gated",
    "rmsnorm_fn": "anymamba.backends.cpu.norm.norm_gated",
    "selective_state_update": "anymamba.backends.cpu.scan.selective_state_update",
    "widened_product": "anymamba.backends.cpu.widened_product",
    "decode_step": "anymamba.backends.cpu.decode.decode_step",
}

LEFT_TO_TORCH = frozenset({"log_softmax_and_slope"})
"""PyTorch's own loop over a row is vectorised like one of ours would be."""


@functools.cache
def available() -> tuple[bool, str]:
    """Is llvmlite here, and can it compile for this processor."""
    try:
        from anymamba.backends.cpu.jit.target import host
    except Exception as error:  # noqa: BLE001 - a broken llvmlite fails in many ways; its own words are the reason
        fix = _("pip install --force-reinstall llvmlite")
        return False, f"llvmlite: {type(error).__name__}: {error} ({fix})"
    try:
        target = host()
        target.machine()
    except Exception as error:  # noqa: BLE001
        return False, _("no code for this processor: ") + f"{type(error).__name__}: {error}"
    return True, _("compiled for {target}").format(target=target)


def versions() -> str:
    """Of everything that decides the machine code beside the sources."""
    import llvmlite

    from anymamba.backends.cpu.jit.target import host

    return f"llvmlite {llvmlite.__version__} {host()}"

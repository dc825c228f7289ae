"""Mamba-3's scans on this GPU at upstream's shapes: ours on Triton and on PyTorch, and mamba_ssm's where it is installed.

    python benchmarks/gpu_mamba3.py            # milliseconds, medians, forward and forward + backward, bfloat16

Shapes: B16 L2345 H32 P64 N128 and B8 L2048 H32, B1 L8192 H64 (SISO); B4 L2048 H16 P64 N128 R4, chunk 16 (MIMO).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import torch

from anymamba import ops
from anymamba.ops.mamba3 import build as siso
from anymamba.ops.mamba3_mimo import build as mimo

SISO = ((16, 2345, 32), (8, 2048, 32), (1, 8192, 64))
MIMO = ((4, 2048, 16, 4),)
OF_HEAD = ("Q_bias", "K_bias", "D", "MIMO_V", "MIMO_Z", "MIMO_Out", "ADT", "DT")


def inputs(build: Callable[..., Any]) -> dict[str, Any]:
    """As a layer passes them: activations in bfloat16, what is of a head and the steps in float32, all with gradients."""
    given: dict[str, Any] = build(lambda *shape: torch.randn(shape, device="cuda"))
    for name, value in given.items():
        if isinstance(value, torch.Tensor):
            given[name] = (value if name in OF_HEAD else value.bfloat16()).requires_grad_()
    return given


def milliseconds(function: Callable[[], Any]) -> float:
    from triton.testing import do_bench

    return float(do_bench(function, return_mode="median"))


def row(label: str, function: Callable[..., Any], given: dict[str, Any]) -> None:
    try:
        needs = [value for value in given.values() if isinstance(value, torch.Tensor)]
        cotangent = torch.randn_like(function(**given))
        with torch.no_grad():
            forward = milliseconds(lambda: function(**given))
        both = milliseconds(lambda: torch.autograd.grad(function(**given), needs, cotangent))
        print(f"{label:60} {forward:9.3f} {both:9.3f}", flush=True)
    except Exception as error:  # noqa: BLE001 - one that is missing or crashes must not end the table
        print(f"{label:60} {type(error).__name__}: {str(error).strip().splitlines()[0][:80]}", flush=True)


def official(module: str, name: str) -> Callable[..., Any] | None:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None


def main() -> int:
    if not torch.cuda.is_available():
        print("no GPU", file=sys.stderr)
        return 1
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: milliseconds forward, forward + backward")
    theirs = official("mamba_ssm.ops.triton.mamba3.mamba3_siso_combined", "mamba3_siso_combined")
    for batch, length, heads in SISO:
        build = siso(length, batch, heads, 64, 1, 128, 32, given=("D", "Z"), return_final_states=False, chunk_size=64)
        given, label = inputs(build), f"SISO B{batch} L{length} H{heads} P64 N128"
        for backend in ("triton", "torch"):
            row(f"{label} {backend}", lambda backend=backend, **kw: ops.mamba3_siso(**kw, backend=backend), given)  # type: ignore[misc]
        if theirs is not None:
            row(f"{label} mamba_ssm", theirs, given)
    theirs = official("mamba_ssm.ops.tilelang.mamba3.mamba3_mimo", "mamba3_mimo")
    for batch, length, heads, rank in MIMO:
        build = mimo(length, batch, heads, 64, 1, 128, rank, chunk_size=16, return_state=False)
        given, label = inputs(build), f"MIMO B{batch} L{length} H{heads} P64 N128 R{rank}"
        for backend in ("triton", "torch"):
            row(f"{label} {backend}", lambda backend=backend, **kw: ops.mamba3_mimo(**kw, backend=backend), given)  # type: ignore[misc]
        if theirs is not None:
            row(f"{label} mamba_ssm", theirs, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())

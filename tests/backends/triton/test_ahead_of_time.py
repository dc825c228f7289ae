"""Every kernel that the ops launch compiles for GPUs that are not here, fits their shared memory, and does not spill."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from tests.backends.triton import ahead_of_time

from anymamba.backends.triton import causal_conv1d as conv
from anymamba.backends.triton import (
    launch,
    norm,
    norm_gated,
    norm_rows,
    selective_scan,
    selective_scan_plan,
    selective_state_update,
    ssd,
    ssd_plan,
)

BYTES_SPILLED: dict[str, tuple[int, str]] = {
    "selective_scan_backward_kernel": (256, "on NVIDIA cards the CUDA kernel takes these calls; this one is for what that cannot do"),
    "ssd_output_kernel": (16, "chunks of 128 with 8 bytes spilled are 4% faster than chunks of 64 on an H200"),
    "ssd_walk_kernel": (96, "a walk over a state of 64 x 128; halves of it are as fast on an H200, but not faster"),
    "ssd_backward_kernel": (1024, "8 warps with spills are 1.3 times as fast as 4 with more of them, on an H200"),
    "norm_backward_kernel": (64, "32 values a lane and their gates: 1.2 times as fast as 16 without spills, on an H200"),
}
"""Kernel: bytes a lane that may be spilled, and why."""


def _rows(width: int, dtype: torch.dtype, length: int = 512) -> Tensor:
    return torch.randn(2, length, width).to(dtype).transpose(1, 2)


def _conv(dtype: torch.dtype, grad: bool) -> None:
    x = _rows(1024, dtype).requires_grad_(grad)
    out: Any = conv.causal_conv1d_fn(x, torch.randn(1024, 4).to(dtype), torch.randn(1024).to(dtype), activation="silu")
    if grad:
        out.sum().backward()


def _conv_update(dtype: torch.dtype, grad: bool) -> None:
    x, weight = torch.randn(1, 1024).to(dtype), torch.randn(1024, 4).to(dtype)
    conv.causal_conv1d_update(x, torch.randn(1, 1024, 3).to(dtype), weight, torch.randn(1024).to(dtype), activation="silu")


def _scan(dtype: torch.dtype, grad: bool) -> None:
    u, delta, z = (_rows(256, dtype).requires_grad_(grad) for _ in range(3))
    B, C = _rows(16, dtype), _rows(16, dtype)
    channel = torch.randn(256)
    A = -torch.rand(256, 16)
    out: Any = selective_scan.selective_scan_fn(u, delta, A, B, C, channel, z=z, delta_bias=channel, delta_softplus=True)
    if grad:
        out.sum().backward()


def _update(dtype: torch.dtype, grad: bool) -> None:
    x, z, dt = (torch.randn(1, 256).to(dtype) for _ in range(3))
    B, C = torch.randn(1, 16).to(dtype), torch.randn(1, 16).to(dtype)
    selective_state_update.selective_state_update(
        torch.randn(1, 256, 16), x, dt, -torch.rand(256, 16), B, C, torch.randn(256), z=z, dt_bias=torch.randn(256), dt_softplus=True
    )


def _update_heads(dtype: torch.dtype, grad: bool) -> None:
    x = torch.randn(1, 24, 64).to(dtype)
    head = torch.randn(24)
    B, C = torch.randn(1, 1, 128).to(dtype), torch.randn(1, 1, 128).to(dtype)
    selective_state_update.selective_state_update(
        torch.randn(1, 24, 64, 128), x, head.to(dtype)[None, :, None].expand(1, 24, 64), head[:, None, None].expand(24, 64, 128), B, C,
        head[:, None].expand(24, 64), dt_bias=head[:, None].expand(24, 64), dt_softplus=True,
    )  # fmt: skip


def _ssd(dtype: torch.dtype, grad: bool, heads: int = 80) -> None:
    wide = torch.randn(2, 512, heads * 64 + 256).to(dtype).requires_grad_(grad)
    x, B, C = wide.split([heads * 64, 128, 128], dim=2)
    head = torch.randn(heads)
    out: Any = ssd.mamba_chunk_scan_combined(
        x.unflatten(2, (heads, 64)), torch.randn(2, 512, heads).to(dtype), head, B.unsqueeze(2), C.unsqueeze(2), 256, D=head,
        dt_bias=head, dt_softplus=True,
    )  # fmt: skip
    if grad:
        out.sum().backward()


def _norm(dtype: torch.dtype, grad: bool) -> None:
    x = torch.randn(64, 768).to(dtype).requires_grad_(grad)
    y: Any = norm.rms_norm_fn(x, torch.ones(768), None, residual=torch.randn(64, 768), prenorm=True, residual_in_fp32=True)
    if grad:
        (y[0].float().sum() + y[1].sum()).backward()


def _norm_gated(dtype: torch.dtype, grad: bool) -> None:
    x, z = (torch.randn(64, 1536).to(dtype).requires_grad_(grad) for _ in range(2))
    y: Any = norm_gated.rmsnorm_fn(x, torch.ones(1536), None, z=z, norm_before_gate=False)
    if grad:
        y.sum().backward()


OPS: dict[str, tuple[Callable[..., None], bool]] = {
    "conv": (_conv, True),
    "conv_update": (_conv_update, False),
    "scan": (_scan, True),
    "update": (_update, False),
    "update_heads": (_update_heads, False),
    "ssd": (_ssd, True),
    "ssd_few_heads": (functools.partial(_ssd, heads=24), True),
    "norm": (_norm, True),
    "norm_gated": (_norm_gated, True),
}

QUICK = {(op, target) for op in ("conv", "update", "norm") for target in ("sm_120", "gfx1100")} | {("update_heads", "sm_90")}
"""The rest is slow: a kernel of the SSD takes seconds to compile."""


def _recorded(op: str, dtype: torch.dtype, target: str, monkeypatch: pytest.MonkeyPatch) -> list[ahead_of_time.Launch]:
    run, differentiable = OPS[op]
    hip = target.startswith("gfx")
    monkeypatch.setattr(launch, "lanes", lambda device: 64 if target == "gfx942" else 32)
    for module in (conv, norm_rows,  selective_scan_plan):
        monkeypatch.setattr(module, "lanes", launch.lanes)
    monkeypatch.setattr(selective_scan_plan, "matrix_unit_for_float32", lambda device: not hip or target == "gfx942")
    monkeypatch.setattr(ssd_plan, "shared_memory", lambda device: ahead_of_time.SHARED_MEMORY[target])
    with ahead_of_time.launches() as found:
        run(dtype, differentiable)
    assert found
    return list(dict.fromkeys(found))


def _cases() -> list[Any]:
    cases = []
    for op in OPS:
        for target in ahead_of_time.TARGETS:
            for dtype in (torch.bfloat16, torch.float16, torch.float32):
                quick = (op, target) in QUICK and dtype == torch.bfloat16
                name = f"{op}-{target}-{str(dtype).removeprefix('torch.')}"
                cases.append(pytest.param(op, target, dtype, id=name, marks=[] if quick else [pytest.mark.slow]))
    return cases


@pytest.mark.parametrize("op,target,dtype", _cases())
def test_what_the_op_launches_compiles_and_fits(
    op: str, target: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    for found in _recorded(op, dtype, target, monkeypatch):
        compiled = ahead_of_time.compile_for(found, target)
        shared = compiled.metadata.shared
        assert shared <= ahead_of_time.SHARED_MEMORY[target], (found.name, shared)
        if target in ("sm_90", "sm_120"):
            registers, spilled = ahead_of_time.registers_and_stack(compiled)
            allowed = BYTES_SPILLED.get(found.name, (0, ""))[0]
            assert spilled <= allowed, (found.name, registers, spilled)


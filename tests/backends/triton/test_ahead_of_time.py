"""Every kernel that the ops can launch compiles for GPUs that are not here, fits their shared memory, and does not spill.

The quick run compiles one of each kernel for two targets. The whole takes hours on two cores, a part of it minutes:

    python -m pytest tests/backends/triton/test_ahead_of_time.py -m slow
    python -m pytest tests/backends/triton/test_ahead_of_time.py -m slow -k "plans and ssd-sm_120-bfloat16"
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from tests.backends.triton import ahead_of_time, specialisations

BYTES_SPILLED: dict[str, tuple[int, str]] = {
    "selective_scan_backward_kernel": (8, "on NVIDIA cards the CUDA kernel takes these calls; this one is for what that cannot do"),
    "ssd_output_kernel": (8, "chunks of 128 with 8 bytes spilled are 4% faster than chunks of 64 on an H200"),
    "mamba3_walk_kernel": (280, "several ranks: chunks of 64 rows that spill take 678 us on an H200, those of 32 rows 906"),
    "mamba3_keys_backward_kernel": (680, "several ranks: chunks of 64 rows that spill take 2240 us on an H200, those of 32 rows 3237"),
    "mamba3_dstate_kernel": (400, "several ranks: chunks of 64 rows that spill take 2782 us on an H200, those of 32 rows 4606"),
    "norm_backward_kernel": (24, "16 warps, of 128 registers a lane, for 8192 columns and their gates; and rows that are not aligned"),
}
"""Kernel: bytes a lane that may be spilled, and why."""

DTYPES = (torch.bfloat16, torch.float16, torch.float32)

SHARES = {"ssd": 12, "selective_scan": 4, "mamba3": 8}
"""Op: tests that its kernels are spread over, so that each ends within the time limit of a test on two cores; others: 1."""


def _wrong(found: ahead_of_time.Launch, target: str) -> str:
    """What is wrong with the kernel on this target, or nothing."""
    what = f"{found.name} {dict(found.constants)} {dict(found.options)}"
    try:
        compiled = ahead_of_time.compile_for(found, target)
    except Exception as error:
        return f"{what}: {type(error).__name__}: {str(error).strip()[-300:]}"
    shared = compiled.metadata.shared
    if shared > ahead_of_time.SHARED_MEMORY[target]:
        return f"{what}: {shared} bytes of shared memory"
    if target in ("sm_90", "sm_120"):
        registers, spilled = ahead_of_time.registers_and_stack(compiled)
        if spilled > BYTES_SPILLED.get(found.name, (0, ""))[0]:
            return f"{what}: {registers} registers, {spilled} bytes spilled"
    return ""


def _compile(launches: list[ahead_of_time.Launch], target: str, share: int = 0, shares: int = 1) -> None:
    mine = list(dict.fromkeys(launches))[share::shares]
    assert mine
    wrong = [text for text in (_wrong(found, target) for found in mine) if text]
    assert not wrong, f"{len(wrong)} of {len(mine)} kernels\n" + "\n".join(wrong)


@pytest.mark.parametrize("target", ["sm_120", "gfx1100"])
@pytest.mark.parametrize("op", specialisations.PLANS)
def test_one_of_each_kernel(op: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with specialisations.on(target, monkeypatch) as found:
        specialisations.plan_calls(op, torch.bfloat16)
    _compile(list({launch.name: launch for launch in reversed(found)}.values()), target)


def _parameters(ops: Any) -> list[Any]:
    return [
        pytest.param(op, target, dtype, share, id=f"{op}-{target}-{str(dtype).removeprefix('torch.')}-{share}")
        for op in ops
        for target in ahead_of_time.TARGETS
        for dtype in DTYPES
        for share in range(SHARES.get(op, 1))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("op,target,dtype,share", _parameters(specialisations.PLANS))
def test_plans(op: str, target: str, dtype: torch.dtype, share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of every plan that the rules give for this GPU."""
    with specialisations.on(target, monkeypatch) as found:
        specialisations.plan_calls(op, dtype)
    _compile(found, target, share, SHARES.get(op, 1))


@pytest.mark.slow
@pytest.mark.parametrize("op,target,dtype,share", _parameters(specialisations.CASES))
def test_options(op: str, target: str, dtype: torch.dtype, share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option and layout of the op's own test cases, as the dispatcher passes them on."""
    with specialisations.on(target, monkeypatch) as found:
        specialisations.option_calls(op, dtype, monkeypatch)
    _compile(found, target, share, SHARES.get(op, 1))

"""Compiled kernels against the float64 reference, on every input of `anymamba verify`: the interpreter cannot show what a compiler does."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from anymamba.numerics import op_errors


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("op", ["mamba_chunk_scan_combined", "selective_scan_fn", "causal_conv1d_fn", "selective_state_update"])
def test_every_case(op: str, dtype: torch.dtype) -> None:
    rows = [row for row in op_errors.measure(torch.device("cuda"), (dtype,), op) if row.backend == "triton"]
    assert rows
    assert not [f"{row.case}: {row.reason}" for row in rows if not row.ok]

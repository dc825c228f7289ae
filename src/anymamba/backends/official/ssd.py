"""mamba_ssm's Triton scan of Mamba-2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.official import importable, upstream, without

_MODULE = "mamba_ssm.ops.triton.ssd_combined"


def supports(call: Call) -> tuple[bool, str]:
    ok, reason = without(call.features, "mixed_dtype")
    if not ok:
        return ok, reason
    if "seq_idx" in call.features and "initial_states" in call.features:
        # upstream gives the initial state to the tokens whose id is 0, we to the first document
        return without(call.features, "initial_states")
    if call.grad and "return_varlen_states" in call.features:
        return without(call.features, "return_varlen_states")
    return importable(_MODULE, "mamba_chunk_scan_combined")


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
    state_dtype: torch.dtype | None = None,
) -> Any:
    # the last parameter is missing in the release on PyPI
    extra = {} if state_dtype is None else {"state_dtype": state_dtype}
    return upstream(_MODULE).mamba_chunk_scan_combined(
        x, dt, A, B, C, chunk_size, D, z, dt_bias, initial_states, None if seq_idx is None else seq_idx.int(), cu_seqlens,
        dt_softplus, dt_limit, return_final_states, return_varlen_states, **extra,
    )  # fmt: skip

"""mamba_ssm's Triton norms with a gate."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.official import importable, upstream

_MODULE = "mamba_ssm.ops.triton.layernorm_gated"


def supports(call: Call) -> tuple[bool, str]:
    return importable(_MODULE, call.op)


def layernorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
) -> Any:
    return upstream(_MODULE).layernorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate, is_rms_norm)


def rmsnorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
) -> Any:
    return upstream(_MODULE).rmsnorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate)

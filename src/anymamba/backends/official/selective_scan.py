"""mamba_ssm's compiled Mamba-1 scan."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.official import importable, upstream, without
from anymamba.language import _

_MODULE = "mamba_ssm.ops.selective_scan_interface"


def supports(call: Call) -> tuple[bool, str]:
    ok, reason = without(call.features, "mixed_dtype", "initial_states", "seq_idx")
    if not ok:
        return ok, reason
    if call.size("d_state") > 256:
        return False, _("d_state {d_state}; upstream ends at 256").format(d_state=call.size("d_state"))
    # from 2026 on mamba-ssm builds without this extension unless MAMBA_KEEP_CUDA_BUILD=TRUE: the wrapper alone proves nothing
    ok, reason = importable("selective_scan_cuda", "fwd", "bwd")
    return importable(_MODULE, "selective_scan_fn") if ok else (ok, reason)


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Any:
    D, delta_bias = (None if value is None else value.float() for value in (D, delta_bias))
    A = A if A.is_complex() else A.float()
    return upstream(_MODULE).selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)

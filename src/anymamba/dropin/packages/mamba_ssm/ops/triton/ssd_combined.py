"""The Mamba-2 scan, and the fused inside of a Mamba-2 mixer."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba import ops
from anymamba.dropin.borrowed import borrowed
from anymamba.dropin.caller import caller, instead
from anymamba.dropin.counting import counted
from anymamba.ops.ssd_split import mamba_split
from anymamba.reference import causal_conv1d as exact_conv
from anymamba.reference import ssd as exact
from anymamba.reference import ssd_split as exact_split

from .ssd_bmm import _bmm_chunk_fwd
from .ssd_chunk_scan import _chunk_scan_fwd, chunk_scan, chunk_scan_ref
from .ssd_chunk_state import _chunk_cumsum_fwd, _chunk_state_fwd, chunk_state, chunk_state_ref, chunk_state_varlen
from .ssd_state_passing import _state_passing_fwd, state_passing, state_passing_ref

__all__ = [
    "MambaChunkScanCombinedFn",
    "MambaSplitConv1dScanCombinedFn",
    "chunk_scan",
    "chunk_scan_ref",
    "chunk_state",
    "chunk_state_ref",
    "chunk_state_varlen",
    "mamba_chunk_scan",
    "mamba_chunk_scan_combined",
    "mamba_conv1d_scan_ref",
    "mamba_split_conv1d_scan_combined",
    "mamba_split_conv1d_scan_ref",
    "ssd_chunk_scan_combined_ref",
    "ssd_selective_scan",
    "state_passing",
    "state_passing_ref",
]

mamba_chunk_scan_combined = counted(__name__, ops.mamba_chunk_scan_combined)


def _mamba_split(*arguments: Any, **keywords: Any) -> Any:
    """mamba_split_conv1d_scan_combined; a module of the caller that is more than the weight it gave us is called in its place."""
    bound = _SPLIT.bind_partial(*arguments, **{name: value for name, value in keywords.items() if name != "mask"}).arguments
    calling = caller(norm=bound.get("rmsnorm_weight"), out_proj=bound.get("outproj_weight"))
    options: dict[str, Any] = {**keywords, **({} if calling is None else instead(calling, keywords))}
    return mamba_split(*arguments, **options)


mamba_split_conv1d_scan_combined = counted(__name__, ops.mamba_split_conv1d_scan_combined, _mamba_split)

_NO_LIMIT = (0.0, float("inf"))
_SPLIT = inspect.signature(ops.mamba_split_conv1d_scan_combined)


class MambaChunkScanCombinedFn:
    """Kept for callers of the class: ``apply`` is mamba_chunk_scan_combined, which has its own autograd node."""

    @staticmethod
    def apply(*arguments: Any) -> Any:
        return mamba_chunk_scan_combined(*arguments)


class MambaSplitConv1dScanCombinedFn:
    """Kept for callers of the class: ``apply`` is mamba_split_conv1d_scan_combined, which has its own autograd nodes."""

    @staticmethod
    def apply(*arguments: Any) -> Any:
        return mamba_split_conv1d_scan_combined(*arguments)


def mamba_chunk_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """The scan without its options; x: (batch, length, nheads, headdim), see mamba_chunk_scan_combined."""
    return mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, D, z, dt_bias, dt_softplus=dt_softplus)


def ssd_chunk_scan_combined_ref(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """The scan in plain torch, token by token; chunk_size changes nothing."""
    y = exact.mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, D, z, dt_bias, dt_softplus=dt_softplus)
    assert isinstance(y, Tensor)
    return y


def ssd_selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
) -> Tensor:
    """The scan through the Mamba-1 recurrence: A per head or (nheads, headdim, d_state), dt per head or (batch, length, nheads, headdim).

    x, z: (batch, length, nheads, headdim); B, C: (batch, length, ngroups, d_state); D, dt_bias: (nheads,) or (nheads, headdim).
    """
    from ..selective_scan_interface import selective_scan_fn

    nheads, headdim, d_state = x.shape[2], x.shape[3], B.shape[3]
    if A.dim() == 1:
        A = A[:, None, None].expand(nheads, headdim, d_state)
    bias = None if dt_bias is None else dt_bias.reshape(nheads, -1).expand(nheads, headdim).flatten()
    step = dt[..., None].expand(x.shape) if dt.dim() == 3 else dt
    delta = step.flatten(2).mT
    if dt_limit != _NO_LIMIT:
        delta = delta if bias is None else delta + bias[:, None]
        delta = (F.softplus(delta) if dt_softplus else delta).clamp(*dt_limit)
        bias, dt_softplus = None, False
    y = selective_scan_fn(
        x.flatten(2).mT,
        delta.to(x.dtype),
        A.flatten(0, 1).float(),
        B.permute(0, 2, 3, 1),
        C.permute(0, 2, 3, 1),
        None if D is None else D.float().reshape(nheads, -1).expand(nheads, headdim).flatten(),
        None if z is None else z.flatten(2).mT,
        None if bias is None else bias.float(),
        dt_softplus,
    )
    return y.mT.unflatten(2, (nheads, headdim))


def mamba_conv1d_scan_ref(
    xBC: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt: Tensor,
    A: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    activation: str | None = "silu",
    headdim: int | None = None,
    ngroups: int = 1,
) -> Tensor:
    """Convolution, split and scan in plain torch. xBC: (batch, length, dim + 2 * ngroups * d_state); dt: (batch, length, nheads).

    Returns (batch, length, dim).
    """
    nheads = dt.shape[2]
    if headdim is None:
        assert D is not None and D.dim() == 2, "headdim must be given unless D is (nheads, headdim)"
        headdim = D.shape[1]
    dim = nheads * headdim
    d_state = (xBC.shape[2] - dim) // (2 * ngroups)
    mixed = exact_conv.causal_conv1d_fn(xBC.mT, conv1d_weight, conv1d_bias, activation=activation)
    assert isinstance(mixed, Tensor)
    x, B, C = mixed.mT.split([dim, ngroups * d_state, ngroups * d_state], dim=2)
    x = x.unflatten(2, (nheads, headdim))
    B, C = (M.unflatten(2, (ngroups, d_state)) for M in (B, C))
    gate = z.unflatten(2, (nheads, headdim)) if z is not None and z.dim() == 3 else z
    y = exact.mamba_chunk_scan_combined(
        x, dt, A, B, C, chunk_size, D, gate, dt_bias, dt_softplus=dt_softplus, dt_limit=dt_limit
    )
    assert isinstance(y, Tensor)
    return y.flatten(2)


def mamba_split_conv1d_scan_ref(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt_bias: Tensor | None,
    A: Tensor,
    D: Tensor | None,
    chunk_size: int,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    activation: str | None = "silu",
    rmsnorm_weight: Tensor | None = None,
    rmsnorm_eps: float = 1e-6,
    outproj_weight: Tensor | None = None,
    outproj_bias: Tensor | None = None,
    headdim: int | None = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
) -> Tensor:
    """The inside of the mixer in plain torch; shapes as in mamba_split_conv1d_scan_combined."""
    y = exact_split.mamba_split_conv1d_scan_combined(
        zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, chunk_size, None, None, dt_limit, False, activation, rmsnorm_weight,
        rmsnorm_eps, outproj_weight, outproj_bias, headdim, ngroups, norm_before_gate,
    )  # fmt: skip
    assert isinstance(y, Tensor)
    return y


def _mamba_chunk_scan_combined_fwd(
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
    state_dtype: torch.dtype | None = None,
) -> tuple[Tensor | None, ...]:
    """The five steps of the chunked algorithm (Mamba-2, listing 1) and all that they leave behind.

    Returns out (batch, length, nheads, headdim), the same before the gate (None without z), dt and dA_cumsum
    (batch, nheads, nchunks, chunk_size), states (batch, nchunks, nheads, headdim, d_state) before each chunk, final_states
    (batch, nheads, headdim, d_state), and with cu_seqlens varlen_states (sequences, nheads, headdim, d_state).
    """
    dA_cumsum, steps = _chunk_cumsum_fwd(dt, A, chunk_size, dt_bias, dt_softplus, dt_limit)
    states = _chunk_state_fwd(B, x, steps, dA_cumsum, seq_idx=seq_idx)
    passed, final = _state_passing_fwd(
        states.flatten(3), dA_cumsum[..., -1], None if initial_states is None else initial_states.flatten(2), seq_idx, chunk_size,
        state_dtype or C.dtype,
    )  # fmt: skip
    before = passed.unflatten(3, states.shape[3:])
    final_states = final.unflatten(2, states.shape[3:])
    cb = _bmm_chunk_fwd(C, B, chunk_size, seq_idx=seq_idx, output_dtype=torch.float32)
    out, ungated = _chunk_scan_fwd(cb, x, steps, dA_cumsum, C, before, D, z, seq_idx)
    results = (out, ungated, steps, dA_cumsum, before, final_states)
    if cu_seqlens is None:
        return results
    return (*results, chunk_state_varlen(B[0], x[0], steps[0], dA_cumsum[0], cu_seqlens, before[0]))


__getattr__ = borrowed(
    __name__,
    "from einops import rearrange, repeat"
    "; from causal_conv1d import causal_conv1d_fn"
    "; from causal_conv1d.cpp_functions import causal_conv1d_bwd_function, causal_conv1d_fwd_function, causal_conv1d_update_function"
    "; from ...utils.torch import custom_bwd, custom_fwd"
    "; from ...utils.determinism import alloc_tile_workspace, finalize_tile_workspace, use_deterministic_mode"
    "; from .k_activations import _swiglu_bwd, _swiglu_fwd"
    "; from .layernorm_gated import _layer_norm_fwd, rmsnorm_fn",
)

"""The whole inside of a Mamba-2 mixer after its input projection: convolution, scan, gated norm, output projection.

Semantics of ``mamba_split_conv1d_scan_combined`` of mamba_ssm (Mamba-2, figure 6), with the grouped norm of its kernel
(its ``_ref`` ignores groups).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.reference import supports as supports
from anymamba.reference.arithmetic import working_dtype
from anymamba.reference.causal_conv1d import causal_conv1d_fn
from anymamba.reference.norm_gated import rmsnorm_fn
from anymamba.reference.ssd import mamba_chunk_scan_combined


def mamba_split_conv1d_scan_combined(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt_bias: Tensor | None,
    A: Tensor,
    D: Tensor | None,
    chunk_size: int,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    activation: str | None = "silu",
    rmsnorm_weight: Tensor | None = None,
    rmsnorm_eps: float | None = 1e-6,
    outproj_weight: Tensor | None = None,
    outproj_bias: Tensor | None = None,
    headdim: int | None = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
    state_dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """zxbcdt (batch, length, 2 * d_nonssm + 2 * dim + 2 * ngroups * d_state + nheads), in the order z0, x0, z, x, B, C, dt, where
    dim = nheads * headdim and d_nonssm (mostly 0) is what is left over; conv1d_weight (dim + 2 * ngroups * d_state, width);
    A, dt_bias (nheads,); D (nheads,) with headdim given, or (nheads, headdim); initial_states of the scan, the convolution
    starts from zeros; rmsnorm_weight (dim,) or None: then the scan gates; outproj_weight (d_model, d_nonssm + dim) or None.
    Returns (batch, length, d_model or d_nonssm + dim); with return_final_states also (batch, nheads, headdim, d_state).
    """
    dtype = working_dtype(zxbcdt, conv1d_weight, A, D, outproj_weight)
    batch, length, total = zxbcdt.shape
    nheads = A.shape[0]
    if headdim is None:
        assert D is not None and D.dim() == 2, "headdim must be given unless D is (nheads, headdim)"
        headdim = D.shape[1]
    dim, convolved = nheads * headdim, conv1d_weight.shape[0]
    d_state = (convolved - dim) // (2 * ngroups)
    d_nonssm = (total - dim - convolved - nheads) // 2
    sizes = [d_nonssm, d_nonssm, dim, convolved, nheads]
    z0, x0, z, xBC, dt = torch.split(zxbcdt.to(dtype), sizes, dim=2)
    mixed = causal_conv1d_fn(xBC.mT, conv1d_weight.to(dtype), conv1d_bias, seq_idx, activation=activation)
    assert isinstance(mixed, Tensor)
    x, B, C = torch.split(mixed.mT, [dim, ngroups * d_state, ngroups * d_state], dim=2)
    z_heads = z.unflatten(2, (nheads, headdim))
    scanned = mamba_chunk_scan_combined(
        x.unflatten(2, (nheads, headdim)),
        dt,
        A,
        B.unflatten(2, (ngroups, d_state)),
        C.unflatten(2, (ngroups, d_state)),
        chunk_size,
        D=D,
        z=z_heads if rmsnorm_weight is None else None,
        dt_bias=dt_bias,
        initial_states=initial_states,
        seq_idx=seq_idx,
        dt_softplus=True,
        dt_limit=dt_limit,
        return_final_states=True,
    )
    out, final_states = scanned[0].flatten(2), scanned[1]
    if rmsnorm_weight is not None:
        assert rmsnorm_eps is not None
        out = rmsnorm_fn(out, rmsnorm_weight, None, z, rmsnorm_eps, dim // ngroups, norm_before_gate)
    if d_nonssm:
        out = torch.cat([F.silu(z0) * x0, out], dim=2)
    if outproj_weight is not None:
        bias = None if outproj_bias is None else outproj_bias.to(dtype)
        out = F.linear(out, outproj_weight.to(dtype), bias)
    out = out.to(zxbcdt.dtype)
    return (out, final_states) if return_final_states else out

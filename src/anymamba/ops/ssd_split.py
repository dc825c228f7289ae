"""The inside of a Mamba-2 mixer after its input projection as one op: one kernel where a backend has it, else composed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.dispatch import choose_fused
from anymamba.backends.opspec import Arguments, Build, OpSpec, Random, register
from anymamba.ops.calls import checks, compiled
from anymamba.ops.calls.called import Projection, projected
from anymamba.ops.calls.inputs import chosen
from anymamba.ops.calls.masks import padding_mask
from anymamba.ops.causal_conv1d import causal_conv1d_fn
from anymamba.ops.norm_gated import rmsnorm_fn
from anymamba.ops.projection import linear
from anymamba.ops.ssd import mamba_chunk_scan_combined
from anymamba.reference import ssd_split as exact


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
    *,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """z0, x0, z, xBC, dt = zxbcdt;  x, B, C = act(conv(xBC));  out_proj(cat(silu(z0) * x0, norm(scan(x, dt, A, B, C, D), z))).

    Source: Mamba-2, figure 6; ``mamba_split_conv1d_scan_combined`` of mamba_ssm.

    zxbcdt: (batch, length, 2 * d_nonssm + 2 * dim + 2 * ngroups * d_state + nheads), floating, any strides; dim = nheads * headdim,
    d_nonssm (mostly 0) is what is left over. conv1d_weight: (dim + 2 * ngroups * d_state, width); conv1d_bias: its first size.
    A, dt_bias: (nheads,); the step is clamp(softplus(dt + dt_bias), *dt_limit). D: (nheads,) with headdim given, or (nheads, headdim).
    chunk_size, initial_states (of the scan; the convolution starts from zeros), seq_idx, state_dtype: as in mamba_chunk_scan_combined.
    activation: of the convolution. rmsnorm_weight: (dim,), an RMS norm over dim // ngroups channels each with the gate z after
    (norm_before_gate) or before it; None: the scan gates. outproj_weight: (d_model, d_nonssm + dim) or None; outproj_bias: (d_model,).
    Under torch.autocast the output projection runs in its dtype.

    Returns (batch, length, d_model or d_nonssm + dim) or (that, final_states (batch, nheads, headdim, d_state) float32).
    Differentiable in every floating argument and through final_states.
    Raises ArgumentError, ArgumentTypeError, UnsupportedError (activation), BackendError.
    """
    return mamba_split(
        zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, chunk_size, initial_states, seq_idx, dt_limit, return_final_states,
        activation, rmsnorm_weight, rmsnorm_eps, outproj_weight, outproj_bias, headdim, ngroups, norm_before_gate, state_dtype,
        backend=backend,
    )  # fmt: skip


def mamba_split(
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
    *,
    mask: Tensor | None = None,
    norm: Callable[[Tensor, Tensor], Tensor] | None = None,
    out_proj: Projection | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """mamba_split_conv1d_scan_combined with what upstream's signature has no place for.

    mask: (batch, length), 0 where a token is padding: the convolution's output, and so x, B and C, are zero there. norm(y, z), out_proj:
    modules to call in place of what rmsnorm_weight and outproj_weight stand for, where they are more than their weights.
    """
    op = "mamba_split_conv1d_scan_combined"
    optional = {
        "conv1d_bias": conv1d_bias, "dt_bias": dt_bias, "D": D, "initial_states": initial_states,
        "rmsnorm_weight": rmsnorm_weight, "outproj_weight": outproj_weight, "outproj_bias": outproj_bias,
    }  # fmt: skip
    with compiled.untraced():
        grad = checks.tensors(
            op, {"zxbcdt": zxbcdt, "conv1d_weight": conv1d_weight, "A": A}, optional, {"seq_idx": seq_idx}
        )
        checks.activation(op, activation)
        checks.shape(op, "zxbcdt", zxbcdt, "(batch, length, width)", (-1, -1, -1))
        checks.shape(op, "conv1d_weight", conv1d_weight, "(dim + 2 * ngroups * d_state, width)", (-1, -1))
        checks.shape(op, "A", A, "(nheads,)", (-1,))
        nheads = A.shape[0]
        if headdim is None:
            if D is None or D.dim() != 2:
                checks.value(op, "headdim", headdim, False, "int / D: (nheads, headdim)")
            else:
                headdim = D.shape[1]
        assert headdim is not None
        checks.skip(op, D, nheads, headdim)
        checks.divides(op, "ngroups", ngroups, "nheads", nheads)
        dim, convolved = nheads * headdim, conv1d_weight.shape[0]
        d_state, left_over = divmod(convolved - dim, 2 * ngroups)
        if d_state < 1 or left_over:
            expected = f"(dim + 2 * ngroups * d_state, width), dim = {dim}, ngroups = {ngroups}"
            raise checks.wrong_shape(op, "conv1d_weight", conv1d_weight, expected)
        d_nonssm, left_over = divmod(zxbcdt.shape[2] - dim - convolved - nheads, 2)
        if d_nonssm < 0 or left_over:
            expected = f"(batch, length, 2 * d_nonssm + {dim + convolved + nheads})"
            raise checks.wrong_shape(op, "zxbcdt", zxbcdt, expected)
        checks.shape(op, "conv1d_bias", conv1d_bias, "(dim + 2 * ngroups * d_state,)", (convolved,))
        checks.shape(op, "rmsnorm_weight", rmsnorm_weight, "(dim,)", (dim,))
        if rmsnorm_weight is not None:
            checks.value(op, "rmsnorm_eps", rmsnorm_eps, rmsnorm_eps is not None, "float")
        checks.shape(op, "outproj_weight", outproj_weight, "(d_model, d_nonssm + dim)", (-1, d_nonssm + dim))
        if outproj_weight is not None:
            checks.shape(op, "outproj_bias", outproj_bias, "(d_model,)", (outproj_weight.shape[0],))
        checks.dt_limit(op, dt_limit)
        mask = padding_mask(op, mask, zxbcdt, zxbcdt.shape[1])
    limits = (float(dt_limit[0]), float(dt_limit[1]))
    arguments = (
        zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, chunk_size, initial_states, seq_idx, limits,
        bool(return_final_states), activation, rmsnorm_weight, rmsnorm_eps, outproj_weight, outproj_bias, headdim, ngroups,
        bool(norm_before_gate), state_dtype,
    )  # fmt: skip
    if not zxbcdt.numel() and norm is None and out_proj is None:
        return exact.mamba_split_conv1d_scan_combined(*arguments)
    features = checks.features(
        **optional, seq_idx=seq_idx, return_final_states=bool(return_final_states), activation=activation,
        norm_before_gate=bool(norm_before_gate), groups=ngroups > 1, D_per_channel=D is not None and D.dim() == 2,
        dt_limit=limits != (0.0, float("inf")), nonssm=d_nonssm > 0,
    )  # fmt: skip
    with compiled.untraced():
        sizes = (("d_state", d_state), ("headdim", headdim), ("width", conv1d_weight.shape[1]))
    # a graph shows the parts, a module has to be called
    in_parts = compiled.capturing() or mask is not None or norm is not None or out_proj is not None
    choice = None if in_parts else choose_fused(Call(op, zxbcdt.device, zxbcdt.dtype, grad, features, sizes), backend)
    if choice is not None:
        return choice.function(*arguments)

    z0, x0, z, xBC, dt = zxbcdt.split([d_nonssm, d_nonssm, dim, convolved, nheads], dim=2)
    mixed = causal_conv1d_fn(xBC.mT, conv1d_weight, conv1d_bias, seq_idx, activation=activation, backend=backend)
    assert isinstance(mixed, Tensor)
    mixed = mixed if mask is None else mixed * mask[:, None].to(mixed.dtype)
    x, B, C = mixed.mT.split([dim, ngroups * d_state, ngroups * d_state], dim=2)
    scanned = mamba_chunk_scan_combined(
        x.unflatten(2, (nheads, headdim)),
        dt,
        A,
        B.unflatten(2, (ngroups, d_state)),
        C.unflatten(2, (ngroups, d_state)),
        chunk_size,
        D=D,
        z=z.unflatten(2, (nheads, headdim)) if rmsnorm_weight is None else None,
        dt_bias=dt_bias,
        initial_states=initial_states,
        seq_idx=seq_idx,
        dt_softplus=True,
        dt_limit=limits,
        return_final_states=bool(return_final_states),
        state_dtype=state_dtype,
        backend=backend,
    )
    y = (scanned if isinstance(scanned, Tensor) else scanned[0]).flatten(2)
    if norm is not None:
        y = norm(y, z)
    elif rmsnorm_weight is not None:
        assert rmsnorm_eps is not None
        y = rmsnorm_fn(y, rmsnorm_weight, None, z, rmsnorm_eps, dim // ngroups, bool(norm_before_gate), backend=backend)
    if d_nonssm:
        y = torch.cat([F.silu(z0) * x0, y], dim=2)
    if outproj_weight is not None:
        y = linear(y, outproj_weight, outproj_bias) if out_proj is None else projected(op, "out_proj", out_proj, y, outproj_weight)
    return y if isinstance(scanned, Tensor) else (y, scanned[1])


def build(
    length: int = 37, batch: int = 2, nheads: int = 4, headdim: int = 16, ngroups: int = 2, d_state: int = 16, width: int = 4,
    d_model: int = 20, d_nonssm: int = 0, without: tuple[str, ...] = ("initial_states", "outproj_bias"), D_per_channel: bool = False,
    documents: Sequence[int] | None = None, chunk_size: int = 16, norm_before_gate: bool = False, **options: Any,
) -> Build:  # fmt: skip
    """d_nonssm: channels beside the scan. documents: seq_idx."""

    def inputs(random: Random) -> Arguments:
        dim, convolved = nheads * headdim, nheads * headdim + 2 * ngroups * d_state
        tensors = {
            "zxbcdt": random(batch, length, 2 * d_nonssm + dim + convolved + nheads),
            "conv1d_weight": random(convolved, width),
            "conv1d_bias": random(convolved),
            "dt_bias": random(nheads) - 2,
            "A": -random(nheads).exp(),
            "D": random(nheads, headdim) if D_per_channel else random(nheads),
            "initial_states": random(batch, nheads, headdim, d_state),
            "rmsnorm_weight": random(dim),
            "outproj_weight": random(d_model, d_nonssm + dim) / dim**0.5,
            "outproj_bias": random(d_model),
        }
        if documents is not None:
            tensors["seq_idx"] = torch.tensor(documents, dtype=torch.int32).expand(batch, -1)
        sizes = {"chunk_size": chunk_size, "headdim": headdim, "ngroups": ngroups, "norm_before_gate": norm_before_gate}
        return {**chosen(tensors, without), **sizes, **options}

    return inputs


SPEC = register(
    OpSpec(
        mamba_split_conv1d_scan_combined,
        build,
        differentiable=(
            "zxbcdt", "conv1d_weight", "conv1d_bias", "dt_bias", "A", "D", "initial_states", "rmsnorm_weight", "outproj_weight",
            "outproj_bias",
        ),
        float32=("A", "D", "dt_bias", "initial_states"),
        composed_of=("causal_conv1d_fn", "mamba_chunk_scan_combined", "rmsnorm_fn"),
    )
)  # fmt: skip

"""The whole inside of a Mamba-1 mixer as one op: one kernel where a backend has it, else composed of the other ops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from anymamba.backends.call import Call
from anymamba.backends.dispatch import choose_fused, requested_backend
from anymamba.backends.opspec import Arguments, Build, OpSpec, Random, register
from anymamba.backends.transforms import transformed
from anymamba.ops.calls import checks, compiled
from anymamba.ops.calls.called import Projection, projected
from anymamba.ops.calls.inputs import sequence
from anymamba.ops.calls.masks import padding_mask
from anymamba.ops.causal_conv1d import causal_conv1d_fn
from anymamba.ops.low_rank import Change, linear
from anymamba.ops.norm import rms_norm_fn
from anymamba.ops.selective_scan import selective_scan_fn
from anymamba.reference import mamba_inner as exact


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
    *,
    backend: str | None = None,
) -> Tensor:
    """x, z = xz;  x = silu(conv(x));  dt, B, C = x_proj(x);  out_proj(scan(x, delta_proj(dt), A, B, C, D, z)).

    Source: Mamba, figure 3 and algorithm 2; ``mamba_inner_fn`` of mamba_ssm.

    xz: (batch, 2 * dim, length), floating. conv1d_weight: (dim, 1, width); conv1d_bias: (dim,).
    x_proj_weight: (dt_rank + d_state + d_state, dim), without the parts that are given as B or C, 2 * d_state each with complex A.
    delta_proj_weight: (dim, dt_rank). out_proj_weight: (d_model, dim); out_proj_bias: (d_model,). A: (dim, d_state), real or complex.
    B, C: None (from x_proj) or in a form that selective_scan_fn takes. D, delta_bias: (dim,). B_proj_bias, C_proj_bias: (d_state,),
    twice that with complex A. b_rms_weight, c_rms_weight (d_state,) and dt_rms_weight (dim,) apply an RMS norm with
    b_c_dt_rms_eps to B, C and the projected delta. Under torch.autocast the projections run in its dtype.
    checkpoint_lvl: 0 keeps what the backward pass needs; 1 keeps xz alone and runs convolution, projections and scan again.

    Returns (batch, length, d_model). Differentiable in every tensor argument, the RMS weights included.
    Raises ArgumentError, ArgumentTypeError, BackendError.
    """
    return mamba_inner(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias, A, B, C, D, delta_bias,
        B_proj_bias, C_proj_bias, delta_softplus, checkpoint_lvl, b_rms_weight, c_rms_weight, dt_rms_weight, b_c_dt_rms_eps,
        backend=backend,
    )  # fmt: skip


def mamba_inner(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
    *,
    mask: Tensor | None = None,
    x_proj: Projection | None = None,
    out_proj: Projection | None = None,
    changes: Mapping[str, Sequence[Change]] | None = None,
    backend: str | None = None,
) -> Tensor:
    """mamba_inner_fn with what upstream's signature has no place for.

    mask: (batch, length), 0 where a token is padding. The convolution's output is zero there, so padding adds nothing to the state: its
    bias would (silu(bias) is not 0). The scan reads zeros and needs no mask of its own.
    x_proj, out_proj: modules to call in place of the two matrix products, where they are more than their weights (adapters, hooks).
    They run once: nothing is computed again in the backward pass.
    changes: of low rank, beside the weights of "x_proj", "delta_proj" and "out_proj" (LoRA).
    """
    op = "mamba_inner_fn"
    optional = {
        "conv1d_bias": conv1d_bias, "out_proj_bias": out_proj_bias, "B": B, "C": C, "D": D, "delta_bias": delta_bias,
        "B_proj_bias": B_proj_bias, "C_proj_bias": C_proj_bias, "b_rms_weight": b_rms_weight, "c_rms_weight": c_rms_weight,
        "dt_rms_weight": dt_rms_weight,
    }  # fmt: skip
    required = {
        "xz": xz, "conv1d_weight": conv1d_weight, "x_proj_weight": x_proj_weight, "delta_proj_weight": delta_proj_weight,
        "out_proj_weight": out_proj_weight, "A": A,
    }  # fmt: skip
    with compiled.untraced():
        grad = checks.tensors(op, required, optional, complex_allowed=True)
        if xz.dim() != 3 or xz.shape[1] % 2:
            raise checks.wrong_shape(op, "xz", xz, "(batch, 2 * dim, length)")
        dim = xz.shape[1] // 2
        checks.shape(op, "conv1d_weight", conv1d_weight, "(dim, 1, width)", (dim, 1, -1))
        checks.shape(op, "conv1d_bias", conv1d_bias, "(dim,)", (dim,))
        checks.shape(op, "delta_proj_weight", delta_proj_weight, "(dim, dt_rank)", (dim, -1))
        checks.shape(op, "A", A, "(dim, d_state)", (dim, -1))
        dt_rank, d_state = delta_proj_weight.shape[1], A.shape[1]
        row = 2 * d_state if A.is_complex() else d_state
        rows = dt_rank + row * ((B is None) + (C is None))
        checks.shape(op, "x_proj_weight", x_proj_weight, "(dt_rank + d_state (B) + d_state (C), dim)", (rows, dim))
        checks.shape(op, "out_proj_weight", out_proj_weight, "(d_model, dim)", (-1, dim))
        checks.shape(op, "out_proj_bias", out_proj_bias, "(d_model,)", (out_proj_weight.shape[0],))
        checks.shape(op, "B_proj_bias", B_proj_bias, "(d_state,)", (row,))
        checks.shape(op, "C_proj_bias", C_proj_bias, "(d_state,)", (row,))
        checks.shape(op, "b_rms_weight", b_rms_weight, "(d_state,)", (d_state,))
        checks.shape(op, "c_rms_weight", c_rms_weight, "(d_state,)", (d_state,))
        checks.shape(op, "dt_rms_weight", dt_rms_weight, "(dim,)", (dim,))
        checks.value(op, "checkpoint_lvl", checkpoint_lvl, checkpoint_lvl in (0, 1), "0 / 1")
        mask = padding_mask(op, mask, xz, xz.shape[2])
    arguments = (
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias, A, B, C, D,
        delta_bias, B_proj_bias, C_proj_bias, bool(delta_softplus), checkpoint_lvl, b_rms_weight, c_rms_weight,
        dt_rms_weight, b_c_dt_rms_eps,
    )  # fmt: skip
    if not xz.numel() and x_proj is None and out_proj is None and not changes:
        return exact.mamba_inner_fn(*arguments)
    with compiled.untraced():
        features = checks.features(
            **{name: tensor for name, tensor in optional.items() if name not in ("B", "C")}, delta_softplus=bool(delta_softplus),
            complex_A=A.is_complex(), constant_B=B is not None and B.dim() == 2, constant_C=C is not None and C.dim() == 2,
            length_contiguous=xz.stride(2) == 1 and xz.stride(1) != 1, aligned=checks.aligned(xz[:, :dim], xz[:, dim:]),
        )  # fmt: skip
        if B is not None or C is not None:
            features |= checks.features(B=B, C=C)
        sizes = ("batch", xz.shape[0]), ("d_state", d_state), ("dim", dim), ("length", xz.shape[2]), ("width", conv1d_weight.shape[2])
        call = Call(op, xz.device, xz.dtype, grad, features, sizes)
    # a graph shows the parts, a module has to be called
    in_parts = compiled.capturing() or x_proj is not None or out_proj is not None
    changes = changes or None
    choice = None if in_parts else choose_fused(call, backend)
    more = {name: value for name, value in (("mask", mask), ("changes", changes)) if value is not None}
    if choice is not None and not (more and choice.backend == "reference"):  # the mathematics alone; the parts below have the rest
        return choice.function(*arguments, **more)

    beside = changes or {}
    backend = requested_backend(backend)  # what is computed again in the backward pass may be outside of the caller's ``with``

    def scanned(xz: Tensor) -> Tensor:
        """(batch, dim, length): everything before the output projection."""
        # along the last dimension: where channels lie side by side, the gradients are joined again without a walk across memory
        x, z = (part.mT for part in xz.mT.chunk(2, dim=2))
        u = causal_conv1d_fn(x, conv1d_weight[:, 0], conv1d_bias, activation="silu", backend=backend)
        assert isinstance(u, Tensor)
        u = u if mask is None else u * mask[:, None].to(u.dtype)
        of_x = beside.get("x_proj", ())
        rows = linear(u.mT, x_proj_weight, None, of_x) if x_proj is None else projected(op, "x_proj", x_proj, u.mT, x_proj_weight)
        parts = list(rows.split([dt_rank, *(row for given in (B, C) if given is None)], dim=2))
        delta = linear(parts.pop(0), delta_proj_weight, None, beside.get("delta_proj", ()))
        if dt_rms_weight is not None:
            delta = _norm(delta, dt_rms_weight, b_c_dt_rms_eps, backend)
        B_, C_ = (
            given
            if given is not None
            else _over_time(parts.pop(0), bias, weight, b_c_dt_rms_eps, A.is_complex(), backend)
            for given, bias, weight in ((B, B_proj_bias, b_rms_weight), (C, C_proj_bias, c_rms_weight))
        )
        y = selective_scan_fn(u, delta.mT, A, B_, C_, D, z, delta_bias, bool(delta_softplus), backend=backend)
        assert isinstance(y, Tensor)
        return y

    recompute = grad and checkpoint_lvl == 1 and x_proj is None and not compiled.capturing() and not transformed()
    y = _checkpointed(scanned, xz) if recompute else scanned(xz)
    if out_proj is not None:
        return projected(op, "out_proj", out_proj, y.mT, out_proj_weight)
    return linear(y.mT, out_proj_weight, out_proj_bias, beside.get("out_proj", ()))


def _checkpointed(function: Callable[[Tensor], Tensor], xz: Tensor) -> Tensor:
    # nothing in there is random, so the state of the random generators need not be kept
    return checkpoint(function, xz, use_reentrant=False, preserve_rng_state=False)


def _over_time(
    projected: Tensor, bias: Tensor | None, rms_weight: Tensor | None, eps: float, complex_A: bool, backend: str | None
) -> Tensor:
    """B or C from its projection (batch, length, d_state): (batch, d_state, length). With complex A from (batch, length, 2 * d_state)
    to (batch, d_state, 2 * length): the two parts of each state side by side become the two parts of each token."""
    if bias is not None:
        projected = projected + bias.to(projected.dtype)
    if complex_A:
        projected = projected.unflatten(2, (-1, 2)).transpose(2, 3).flatten(1, 2)
    if rms_weight is not None:
        projected = _norm(projected, rms_weight, eps, backend)
    return projected.mT


def _norm(x: Tensor, weight: Tensor, eps: float, backend: str | None) -> Tensor:
    y = rms_norm_fn(x, weight, None, eps=eps, backend=backend)
    assert isinstance(y, Tensor)
    return y


def build(
    length: int = 37, batch: int = 2, dim: int = 20, d_state: int = 16, d_model: int = 10, dt_rank: int = 3, width: int = 4,
    bias: bool = True, given: tuple[str, ...] = ("D", "delta_bias"), constant: str = "", complex_A: bool = False,
    layout: str = "channels", **options: Any,
) -> Build:  # fmt: skip
    """given: which of the optional vectors there are. constant: which of "BC" are given, constant in time. layout: of xz, see
    inputs.sequence."""

    def inputs(random: Random) -> Arguments:
        row = 2 * d_state if complex_A else d_state
        A = -random(dim, d_state).exp()
        arguments: Arguments = {
            "xz": sequence(random, batch, length, 2 * dim, layout=layout),
            "conv1d_weight": random(dim, 1, width),
            "conv1d_bias": random(dim) if bias else None,
            "x_proj_weight": random(dt_rank + (2 - len(constant)) * row, dim) / dim**0.5,
            "delta_proj_weight": random(dim, dt_rank) / dt_rank**0.5,
            "out_proj_weight": random(d_model, dim) / dim**0.5,
            "out_proj_bias": random(d_model) if bias else None,
            "A": torch.complex(A, random(dim, d_state)) if complex_A else A,
        }
        for name in constant:
            arguments[name] = torch.complex(random(dim, d_state), random(dim, d_state)) if complex_A else random(dim, d_state)
        sizes = {
            "D": dim, "delta_bias": dim, "B_proj_bias": row, "C_proj_bias": row, "b_rms_weight": d_state, "c_rms_weight": d_state,
            "dt_rms_weight": dim,
        }  # fmt: skip
        arguments.update({name: random(sizes[name]) - 2 * (name == "delta_bias") for name in given})
        return {**arguments, **options}

    return inputs


SPEC = register(
    OpSpec(
        mamba_inner_fn,
        build,
        differentiable=(
            "xz", "conv1d_weight", "conv1d_bias", "x_proj_weight", "delta_proj_weight", "out_proj_weight", "out_proj_bias", "A", "B", "C",
            "D", "delta_bias", "B_proj_bias", "C_proj_bias", "b_rms_weight", "c_rms_weight", "dt_rms_weight",
        ),
        float32=("A", "D", "delta_bias"),
        probe=lambda call: build(d_state=call.size("d_state", 16), width=call.size("width", 4)),
        published=({}, {"batch": 1, "dim": 1536, "length": 2048}, {"batch": 8, "dim": 1536, "length": 2048}),
        composed_of=("causal_conv1d_fn", "selective_scan_fn"),
    )
)  # fmt: skip

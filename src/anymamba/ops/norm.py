"""Layer norm and RMS norm, fused with what comes before them in a block: dropout, row scale, a second branch, the residual."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.dispatch import choose
from anymamba.backends.opspec import Arguments, Bench, Build, OpSpec, Random, on_cuda, register
from anymamba.ops.calls import checks, compiled
from anymamba.reference import norm as exact


def _shapes(
    x: Tensor, residual: Tensor | None, weight1: Tensor | None, prenorm: bool, residual_in_fp32: bool, **_: Any
) -> list[Tensor]:
    outputs = [compiled.contiguous(x)]
    if weight1 is not None:
        outputs.append(compiled.contiguous(x))
    if prenorm:
        dtype = x.dtype if residual is None else residual.dtype
        if residual is None and residual_in_fp32:
            dtype = torch.promote_types(dtype, torch.float32)
        outputs.append(torch.empty(x.shape, dtype=dtype, device=x.device))
    return outputs


@compiled.as_node(_shapes)
def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    return_dropout_mask: bool = False,
    *,
    backend: str | None = None,
) -> Tensor | tuple[Tensor | None, ...]:
    """s = dropout(x * rowscale) + dropout(x1) + residual;  y = norm(s) * weight + bias, y1 = norm(s) * weight1 + bias1.

    norm(s) = (s - mean(s)) / sqrt(var(s) + eps) over the last axis; with is_rms_norm s / sqrt(mean(s^2) + eps).
    Source: ``layer_norm_fn`` of mamba_ssm.ops.triton.layer_norm; RMS norm: Zhang and Sennrich, 2019.

    x, x1, residual: (..., dim), floating, dtypes may differ. weight, bias, weight1, bias1: (dim,). rowscale: (...), one factor a row.
    dropout_p: probability of a zero, 0 <= dropout_p < 1, drawn apart for x and x1. residual_in_fp32: without residual, s is kept
    in float32.

    Returns y in the dtype of x, then y1 if weight1 is given, then with prenorm s in the dtype of residual (without one: of x, or
    float32), then with return_dropout_mask the masks of x and x1 (True: kept; None where there is none). One alone comes bare.
    Differentiable in every floating argument but rowscale. Statistics are computed in float32.

    Raises ArgumentError (shapes, dropout_p), ArgumentTypeError (dtypes, devices), BackendError.
    """
    arguments = (
        x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, bool(prenorm), bool(residual_in_fp32),
        bool(is_rms_norm), bool(return_dropout_mask),
    )  # fmt: skip
    return _run("layer_norm_fn", arguments, bool(is_rms_norm), backend)


@compiled.as_node(_shapes)
def rms_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    return_dropout_mask: bool = False,
    *,
    backend: str | None = None,
) -> Tensor | tuple[Tensor | None, ...]:
    """layer_norm_fn without the subtraction of the mean; see there for shapes, dtypes, results and errors."""
    arguments = (
        x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, bool(prenorm), bool(residual_in_fp32),
        bool(return_dropout_mask),
    )  # fmt: skip
    return _run("rms_norm_fn", arguments, False, backend)


def _run(op: str, arguments: tuple, is_rms_norm: bool, backend: str | None) -> Tensor | tuple[Tensor | None, ...]:
    x, weight, bias, residual, x1, weight1, bias1, _, dropout_p, rowscale, prenorm = arguments[:11]
    options = {"bias": bias, "residual": residual, "x1": x1, "weight1": weight1, "bias1": bias1, "rowscale": rowscale}
    grad = checks.tensors(op, {"x": x, "weight": weight}, options)
    if not x.dim():
        raise checks.wrong_shape(op, "x", x, "(..., dim)")
    dim = x.shape[-1]
    for name, tensor in (("weight", weight), ("bias", bias), ("weight1", weight1), ("bias1", bias1)):
        checks.shape(op, name, tensor, "(dim,)", (dim,))
    for name, tensor in (("residual", residual), ("x1", x1)):
        checks.shape(op, name, tensor, "(..., dim)", tuple(x.shape))
    checks.shape(op, "rowscale", rowscale, "(...)", tuple(x.shape[:-1]))
    checks.value(op, "dropout_p", dropout_p, 0 <= dropout_p < 1, "0 <= dropout_p < 1")
    if not x.numel():
        return getattr(exact, op)(*arguments)
    if torch.compiler.is_compiling():
        random = dropout_p > 0 or arguments[-1]  # or the dropout masks are wanted
        return (compiled.outside if random else compiled.run)(op, arguments, backend)
    features = checks.features(
        bias=bias, residual=residual, x1=x1, weight1=weight1, rowscale=rowscale, dropout=dropout_p > 0, prenorm=prenorm,
        is_rms_norm=is_rms_norm, mixed_dtype=checks.mixed(x, x1),
    )  # fmt: skip
    return choose(Call(op, x.device, x.dtype, grad, features, (("dim", dim),)), backend).function(*arguments)


def build(
    shape: tuple[int, ...] = (2, 37, 20), size: float = 1.0, bias: bool = False, given: tuple[str, ...] = ("residual",),
    prenorm: bool = True, **options: Any,
) -> Build:  # fmt: skip
    """shape: of x. size: factor on x and the residual. given: which of residual, x1, weight1, bias1, rowscale
    there are."""

    def inputs(random: Random) -> Arguments:
        dim = shape[-1:]
        sizes = {"residual": shape, "x1": shape, "weight1": dim, "bias1": dim, "rowscale": shape[:-1]}
        arguments = {"x": random(*shape) * size, "weight": random(*dim), "bias": random(*dim) if bias else None}
        optional = {name: random(*sizes[name]) * (size if name == "residual" else 1.0) for name in given}
        return {**arguments, **optional, "prenorm": prenorm, **options}

    return inputs


def probe(call: Call) -> Build:
    """Rows as wide."""
    return build((2, 37, call.size("dim", 20)))


_DIFFERENTIABLE = ("x", "weight", "bias", "residual", "x1", "weight1", "bias1")

LAYER_SPEC = register(
    OpSpec(
        layer_norm_fn,
        build,
        _DIFFERENTIABLE,
        probe=probe,
        cases={
            "bias": build((2, 5, 33), bias=True),
            "no residual": build((2, 5, 64), given=()),
            "large inputs": build((2, 7, 300), size=1e4, bias=True, prenorm=False),
        },
    )
)

SPEC = register(
    OpSpec(
        rms_norm_fn,
        build,
        _DIFFERENTIABLE,
        probe=probe,
        published=tuple({"shape": (1, 8, dim)} for dim in (768, 1536, 2560, 4096)),
        cases={
            "large inputs": build((2, 7, 300), size=1e4),
            "tiny inputs": build((2, 7, 300), size=1e-4),
            "bias": build((2, 5, 33), bias=True),
            "no residual": build((2, 5, 64), given=()),
            "float32 residual": build((2, 5, 96), residual_in_fp32=True),
            "one row, not prenorm": build((2, 1, 1030), prenorm=False),
        },
        bench=tuple(
            Bench(f"B{batch}-L{length}-D{dim}", {"shape": (batch, length, dim), "eps": 1e-5}, **more)
            for batch, length, dim, more in (
                (1, 2048, 768, {}),
                (1, 512, 768, {"dtypes": ("float32",), "quick": True}),
                (8, 2048, 2560, on_cuda()),
            )
        ),
    )
)

"""Layer norm and RMS norm over groups of channels with the gate silu(z): the norm inside a Mamba-2 mixer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.dispatch import choose
from anymamba.backends.opspec import Arguments, Bench, Build, OpSpec, Random, on_cuda, register
from anymamba.ops.calls import checks, compiled
from anymamba.reference import norm_gated as exact


@compiled.as_node(lambda x, **_: [compiled.contiguous(x)])
def layernorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
    *,
    backend: str | None = None,
) -> Tensor:
    """norm(x) * silu(z) if norm_before_gate, else norm(x * silu(z)); norm(x) without z; norm includes weight and bias.

    Source: Mamba-2, section 7.3; ``layernorm_fn`` of mamba_ssm.ops.triton.layernorm_gated.

    x, z: (..., dim), floating, any strides, dtypes may differ. weight, bias: (dim,). group_size: channels that share their
    statistics, dividing dim (None: all). is_rms_norm: the mean is not subtracted.
    Returns the shape and dtype of x. Differentiable in x, weight, bias, z. Statistics are computed in float32.

    Raises ArgumentError (shapes, group_size), ArgumentTypeError (dtypes, devices), BackendError.
    """
    arguments = (x, weight, bias, z, eps, group_size, bool(norm_before_gate), bool(is_rms_norm))
    return _run("layernorm_fn", arguments, bool(is_rms_norm), backend)


@compiled.as_node(lambda x, **_: [compiled.contiguous(x)])
def rmsnorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    *,
    backend: str | None = None,
) -> Tensor:
    """layernorm_fn without the subtraction of the mean; see there for shapes, dtypes and errors."""
    return _run("rmsnorm_fn", (x, weight, bias, z, eps, group_size, bool(norm_before_gate)), False, backend)


def _run(op: str, arguments: tuple, is_rms_norm: bool, backend: str | None) -> Tensor:
    x, weight, bias, z, _, group_size, norm_before_gate = arguments[:7]
    grad = checks.tensors(op, {"x": x, "weight": weight}, {"bias": bias, "z": z})
    if not x.dim():
        raise checks.wrong_shape(op, "x", x, "(..., dim)")
    dim = x.shape[-1]
    checks.shape(op, "weight", weight, "(dim,)", (dim,))
    checks.shape(op, "bias", bias, "(dim,)", (dim,))
    checks.shape(op, "z", z, "(..., dim)", tuple(x.shape))
    if group_size is not None:
        checks.divides(op, "group_size", group_size, "dim", dim)
    if not x.numel():
        return getattr(exact, op)(*arguments)
    if torch.compiler.is_compiling():
        return compiled.run(op, arguments, backend)
    features = checks.features(
        bias=bias, z=z, group_size=group_size is not None and group_size != dim, norm_before_gate=norm_before_gate,
        is_rms_norm=is_rms_norm, mixed_dtype=checks.mixed(x, z),
    )  # fmt: skip
    sizes = (("dim", dim), ("group_size", group_size or dim))
    return choose(Call(op, x.device, x.dtype, grad, features, sizes), backend).function(*arguments)


def build(
    shape: tuple[int, ...] = (2, 37, 20), size: float = 1.0, bias: bool = False, gate: bool = True, norm_before_gate: bool = False,
    **options: Any,
) -> Build:  # fmt: skip
    """shape: of x. size: factor on x."""

    def inputs(random: Random) -> Arguments:
        arguments = {"x": random(*shape) * size, "weight": random(shape[-1]), "bias": random(shape[-1]) if bias else None}
        if gate:
            arguments["z"] = random(*shape)
        return {**arguments, "norm_before_gate": norm_before_gate, **options}

    return inputs


def probe(call: Call) -> Build:
    """Rows and groups as wide."""
    dim = call.size("dim", 20)
    return build((2, 37, dim), group_size=call.size("group_size", dim // 2))


_DIFFERENTIABLE = ("x", "weight", "bias", "z")

LAYER_SPEC = register(
    OpSpec(
        layernorm_fn,
        build,
        _DIFFERENTIABLE,
        probe=probe,
        cases={
            "groups": build((2, 37, 20), group_size=10),
            "bias": build((2, 5, 33), bias=True),
            "norm before gate, groups": build((2, 5, 64), norm_before_gate=True, group_size=16, bias=True),
            "no gate": build((2, 5, 300), gate=False),
        },
    )
)

SPEC = register(
    OpSpec(
        rmsnorm_fn,
        build,
        _DIFFERENTIABLE,
        probe=probe,
        published=tuple({"shape": (1, 8, dim)} for dim in (1536, 3072, 5120, 8192)),
        cases={
            "large inputs": build((2, 7, 300), size=1e4),
            "groups": build((2, 5, 96), group_size=32),
            "norm before gate": build((2, 5, 33), norm_before_gate=True, bias=True),
            "no gate": build((2, 5, 64), gate=False),
            "norm before gate, groups": build((2, 5, 64), norm_before_gate=True, group_size=16),
        },
        bench=tuple(
            Bench(f"B{batch}-L{length}-D{dim}", {"shape": (batch, length, dim), "eps": 1e-5}, **more)
            for batch, length, dim, more in ((1, 2048, 1536, {}), (8, 2048, 5120, on_cuda()))
        ),
    )
)

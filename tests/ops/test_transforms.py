"""torch.func, forward mode and second derivatives: the reference serves there by itself, or the message says that it would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap

import anymamba
import anymamba.errors
from anymamba import ops
from anymamba.backends.opspec import SPECS
from anymamba.errors import BackendError

DIFFERENTIABLE = [op for op, spec in SPECS.items() if spec.differentiable]
SMALL = {"mamba3_siso": {"length": 9}, "mamba3_mimo": {"length": 9}}


def scalar(op: str, backend: str | None = None) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A scalar function of the op's first argument, and that argument."""
    generator = torch.Generator().manual_seed(3)
    given = SPECS[op].build(**SMALL.get(op, {}))(lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64))
    given = {name: value.float() if isinstance(value, Tensor) and value.is_floating_point() else value for name, value in given.items()}
    name = SPECS[op].gradients(given)[0]
    first = given.pop(name)

    def function(tensor: Tensor) -> Tensor:
        result: Any = getattr(ops, op)(**{name: tensor}, **given, backend=backend)
        return (result if isinstance(result, Tensor) else result[0]).square().mean()

    return function, first


@pytest.mark.parametrize("backend", [None, "torch"])
@pytest.mark.parametrize("op", DIFFERENTIABLE)
@pytest.mark.filterwarnings("ignore::anymamba.errors.AnymambaWarning")
def test_transformations(op: str, backend: str | None) -> None:
    function, first = scalar(op, backend)
    leaf = first.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(leaf), leaf)
    torch.testing.assert_close(grad(function)(first), slope, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(vmap(function)(torch.stack([first, 2 * first]))[0], function(first), rtol=1e-5, atol=1e-6)
    direction = torch.randn_like(first)
    along = (slope * direction).sum()
    torch.testing.assert_close(jvp(function, (first,), (direction,))[1], along, rtol=1e-3, atol=1e-5)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(function(forward_ad.make_dual(first, direction)))
        torch.testing.assert_close(dual.tangent, along, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("op", [op for op in DIFFERENTIABLE if not SPECS[op].composed_of])
def test_second_derivatives(op: str) -> None:
    """With the reference they are there; with the kernels the message says so."""
    results = []
    for backend in ("reference", "torch", None):
        function, first = scalar(op, backend)
        leaf = first.clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(leaf), leaf, create_graph=True)
        results.append(slope.detach())
        if backend is None:
            with pytest.raises(BackendError, match='use_backend\\("torch"\\)'):
                slope.square().sum().backward()
        else:
            assert torch.isfinite(torch.autograd.grad(slope.square().sum(), leaf)[0]).all()
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(results[2], results[0], rtol=1e-3, atol=1e-6)


def test_a_named_backend_is_refused_inside() -> None:
    function, first = scalar("selective_scan_fn", "cpu")
    with pytest.raises(BackendError, match=r"torch\.func"):
        grad(function)(first)
    with anymamba.use_backend("cpu"), pytest.raises(BackendError, match="inside of"):
        vmap(scalar("rms_norm_fn")[0])(torch.stack([scalar("rms_norm_fn")[1]]))


STEPS = [op for op in SPECS if op.endswith("_update")]


@pytest.mark.parametrize("op", STEPS)
@pytest.mark.filterwarnings("ignore::anymamba.errors.AnymambaWarning")
def test_steps_under_vmap(op: str) -> None:
    """Mapped over the state, each copy is updated; without it, the message says what is missing."""
    given = SPECS[op].build()(torch.randn)
    state = SPECS[op].inplace[0]
    plain, x = {name: value.clone() if isinstance(value, Tensor) else value for name, value in given.items()}, given["x"]
    wanted = getattr(ops, op)(**plain)
    states = torch.stack([given[state], given[state]])

    def step(one: Tensor, x: Tensor) -> Tensor:
        result: Tensor = getattr(ops, op)(**{**given, state: one, "x": x})
        return result

    got = vmap(step)(states, torch.stack([x, 2 * x]))
    torch.testing.assert_close(got[0], wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(states[0], plain[state], rtol=1e-4, atol=1e-5)
    with pytest.raises(anymamba.errors.ArgumentError, match=f"map over {state} too"):
        vmap(step, in_dims=(None, 0))(given[state].clone(), torch.stack([x, 2 * x]))

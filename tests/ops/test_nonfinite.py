"""NaN and infinity go through the ops as they go through torch: what the reference makes non-finite, every backend makes non-finite,
and the other sequences of the batch stay what they were. Nothing is refused unless debug_checks asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import anymamba
from anymamba import ops
from anymamba.backends import REGISTRY, dispatch, probes
from anymamba.backends.call import Call
from anymamba.backends.opspec import SPECS, Arguments
from anymamba.errors import ArgumentError

KINDS = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}
DECAYS = {"A", "ADT"}
"""Rates of decay, which are never positive and which a chunked scan sums up and subtracts: of them only NaN is compared."""


def inputs_of(op: str) -> Arguments:
    generator = torch.Generator().manual_seed(3)
    return SPECS[op].build()(lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64))


def poisoned(tensor: Tensor, value: float) -> Tensor:
    """One element in the middle, of the last sequence where the first axis is the batch."""
    tensor = tensor.clone()
    tensor[(-1, *(size // 2 for size in tensor.shape[1:]))] = value
    return tensor


def run(op: str, backend: str, argument: str | None = None, value: float = 0.0) -> dict[str, Tensor]:
    """Outputs, changed states and gradients of the op's typical inputs."""
    spec = SPECS[op]
    call = Call(op, torch.device("cpu"), torch.float32, bool(spec.differentiable))
    given = {name: probes.as_given(name, value, spec, call) for name, value in inputs_of(op).items()}
    if argument is not None:
        given[argument] = poisoned(given[argument], value)
    return probes.outcome(lambda **inputs: getattr(ops, op)(**inputs, backend=backend), given, spec, call.grad)


def floating(op: str) -> list[str]:
    return [name for name, value in inputs_of(op).items() if isinstance(value, Tensor) and value.is_floating_point()]


@pytest.mark.parametrize("backend", ("torch", "cpu"))
@pytest.mark.parametrize("op", SPECS)
def test_nan_propagates(op: str, backend: str) -> None:
    """The first argument; all arguments and infinities in the slow test."""
    compare(op, backend, floating(op)[:1], {"nan": float("nan")})


@pytest.mark.slow
@pytest.mark.parametrize("backend", ("torch", "cpu", "triton"))
@pytest.mark.parametrize("op", SPECS)
def test_non_finite_values_propagate(op: str, backend: str) -> None:
    compare(op, backend, floating(op), KINDS)


def compare(op: str, backend: str, arguments: list[str], kinds: dict[str, float]) -> None:
    if backend == "triton" and os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available():
        pytest.skip("runs where TRITON_INTERPRET=1")
    if not dispatch.implements(REGISTRY[backend], op):
        pytest.skip(f"{backend} composes it, or leaves it to torch")
    inputs = inputs_of(op)
    batch = inputs[floating(op)[0]].shape[0]
    clean = run(op, backend)
    for argument in arguments:
        for kind, value in kinds.items():
            if argument in DECAYS and kind != "nan":
                continue
            want, got = run(op, "reference", argument, value), run(op, backend, argument, value)
            for name, exact in want.items():
                bad = ~torch.isfinite(exact)
                lost = bad & torch.isfinite(got[name])
                # the two ends of a decay's gradient are differences of sums, which a chunked scan takes apart elsewhere
                allowed = 2 if name == "gradient of ADT" else 0
                if argument == "z" and kind == "-inf":  # silu(-inf) is NaN in torch and -inf in the kernels; a norm spreads NaN alone
                    allowed = max(int(bad.sum()) - 1, 0)
                assert lost.sum() <= allowed, f"{argument} {kind}: {int(lost.sum())} of {int(bad.sum())} in {name} became finite"
                if name == "output 0" and batch > 1 and inputs[argument].shape[0] == exact.shape[0] == batch:
                    assert torch.equal(got[name][0], clean[name][0]), f"{argument} {kind} reached another sequence in {name}"


@pytest.mark.parametrize("op", SPECS)
def test_debug_checks_name_the_argument(op: str) -> None:
    for argument in floating(op):
        if argument in ("state", "conv_state"):
            continue
        with anymamba.debug_checks(), pytest.raises(ArgumentError, match="non-finite") as caught:
            run(op, "reference", argument, float("nan"))
        assert str(caught.value).startswith(f"{op}: {argument} "), str(caught.value)
    run(op, "reference")


def test_debug_checks_nest_and_act_on_entry() -> None:
    x = torch.full((1, 2, 3), float("nan"))
    weight = torch.ones(2, 2)
    with anymamba.debug_checks():
        with anymamba.debug_checks(False):
            ops.causal_conv1d_fn(x, weight)
        with pytest.raises(ArgumentError):
            ops.causal_conv1d_fn(x, weight)
    ops.causal_conv1d_fn(x, weight)
    checks = anymamba.debug_checks()
    with pytest.raises(ArgumentError):
        ops.causal_conv1d_fn(x, weight)
    with checks:
        pass
    ops.causal_conv1d_fn(x, weight)


def test_the_environment_variable() -> None:
    program = "import torch; from anymamba import ops; ops.causal_conv1d_fn(torch.full((1, 2, 3), float('nan')), torch.ones(2, 2))"
    for value, fails in (("1", True), ("0", False)):
        done = subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "ANYMAMBA_DEBUG_CHECKS": value}, capture_output=True, text=True
        )
        assert ("non-finite" in done.stderr) == fails, done.stderr


def test_a_loop_that_skips_overflowing_steps_goes_on() -> None:
    """As GradScaler does it: an infinite loss scale gives non-finite gradients, the step is skipped, the next one counts."""
    torch.manual_seed(0)
    inputs = inputs_of("selective_scan_fn")
    tensors: dict[str, Any] = {name: value.float() if isinstance(value, Tensor) else value for name, value in inputs.items()}
    tensors["return_last_state"] = False
    tensors["u"] = tensors["u"].requires_grad_()
    skipped = []
    for scale in (float("inf"), 1.0):
        tensors["u"].grad = None
        out = ops.selective_scan_fn(**tensors)
        (torch.as_tensor(out) * scale).sum().backward()
        skipped.append(not torch.isfinite(tensors["u"].grad).all())
    assert skipped == [True, False]

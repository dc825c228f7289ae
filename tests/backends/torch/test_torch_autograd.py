"""Under autocast, activation checkpointing and no_grad the ops do what they do without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import anymamba.ops  # noqa: F401 - it registers the specs
from anymamba.backends.opspec import SPECS
from anymamba.backends.torch import OPS, selective_scan, ssd

TRAINABLE = [op for op in OPS if SPECS[op].differentiable]


def prepared(op: str, dtype: torch.dtype = torch.float32) -> tuple[Callable[..., Any], dict[str, Tensor], dict[str, Any]]:
    """The op as a function of its differentiable inputs."""
    generator = torch.Generator().manual_seed(0)
    given = SPECS[op].build()(lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype))
    function = getattr(__import__(OPS[op], fromlist=["x"]), op)
    inputs = {name: given.pop(name).detach().requires_grad_() for name in SPECS[op].gradients(given)}
    return function, inputs, given


def gradients(op: str, run: Callable[[Callable[..., Any], dict[str, Tensor]], Any]) -> list[Tensor]:
    function, inputs, options = prepared(op)
    out = run(lambda **given: function(**given, **options), inputs)
    outputs = [part for part in (out if isinstance(out, tuple) else (out,)) if part.requires_grad]
    cotangents = [torch.linspace(-1, 1, part.numel()).cos().view(part.shape) for part in outputs]
    return [*outputs, *torch.autograd.grad(outputs, list(inputs.values()), cotangents)]


@pytest.mark.parametrize("op", TRAINABLE)
def test_autocast_changes_nothing(op: str) -> None:
    def under_autocast(function: Callable[..., Any], inputs: dict[str, Tensor]) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return function(**inputs)

    for got, want in zip(gradients(op, under_autocast), gradients(op, lambda function, inputs: function(**inputs))):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("op", TRAINABLE)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(op: str, use_reentrant: bool) -> None:
    def checkpointed(function: Callable[..., Any], inputs: dict[str, Tensor]) -> Any:
        names = list(inputs)
        return checkpoint(lambda *values: function(**dict(zip(names, values))), *inputs.values(), use_reentrant=use_reentrant)

    if use_reentrant:
        pytest.importorskip("torch.utils.checkpoint")
        function, inputs, options = prepared(op)
        out = checkpointed(lambda **given: function(**given, **options), inputs)
        first = out[0] if isinstance(out, tuple) else out
        first.sum().backward()
        got = [value.grad for value in inputs.values()]
        again, fresh, options = prepared(op)
        out = again(**fresh, **options)
        first = out[0] if isinstance(out, tuple) else out
        want = torch.autograd.grad(first.sum(), list(fresh.values()), allow_unused=True)
        for a, b in zip(got, want):
            torch.testing.assert_close(torch.zeros(()) if a is None else a, torch.zeros(()) if b is None else b)
    else:
        for got_, want_ in zip(gradients(op, checkpointed), gradients(op, lambda function, inputs: function(**inputs))):
            torch.testing.assert_close(got_, want_, rtol=0, atol=0)


@pytest.mark.parametrize("op", TRAINABLE)
def test_no_grad_keeps_no_graph(op: str) -> None:
    function, inputs, options = prepared(op)
    with torch.no_grad():
        out = function(**inputs, **options)
    assert not any(part.requires_grad for part in (out if isinstance(out, tuple) else (out,)))


def test_scan_gradcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selective_scan, "_chunk_length", lambda *_: 4)
    function, inputs, options = prepared("selective_scan_fn", torch.float64)
    short = {name: value.detach()[..., :6].requires_grad_() if value.dim() == 3 else value for name, value in inputs.items()}
    few = {name: value.detach()[:, :4] if name in ("u", "delta", "z") else value for name, value in short.items()}
    few |= {name: short[name].detach()[:4] for name in ("A", "D", "delta_bias")}
    names = list(few)
    values = [few[name].detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(lambda *given: function(**dict(zip(names, given)), **options), values)


def test_ssd_gradcheck_with_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssd, "_blocks", lambda length, *_: [(4, 4), (4, 2), (1, 1)])
    names = ("x", "dt", "A", "B", "C", "initial_states")
    shapes = ((1, 9, 2, 2), (1, 9, 2), (2,), (1, 9, 1, 3), (1, 9, 1, 3), (1, 2, 2, 3))
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    seq_idx = torch.tensor([[5, 5, 5, 7, -1, 7, 5, 5, 5]], dtype=torch.int32)

    def run(*given: Tensor) -> Any:
        inputs = dict(zip(names, given))
        inputs["A"] = -inputs["A"].exp()
        options = {"chunk_size": 4, "seq_idx": seq_idx, "dt_softplus": True, "return_final_states": True}
        return ssd.mamba_chunk_scan_combined(**inputs, **options)

    assert torch.autograd.gradcheck(run, values)

"""The recipe "Add an op" of CONTRIBUTING.md, followed with an op that nobody needs: each step does what it says, and no step is missing."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.backends import fake
from tests.ops import harness
from torch import Tensor

from anymamba import ops, reference
from anymamba.backends import dispatch, selfcheck, table
from anymamba.backends import torch as torch_backend
from anymamba.backends.call import Call
from anymamba.backends.dispatch import choose
from anymamba.backends.opspec import SPECS, Arguments, Bench, Build, OpSpec, Random, register, spec_of
from anymamba.bench.cases import op_cases
from anymamba.errors import AnymambaWarning, BackendError
from anymamba.numerics import op_errors
from anymamba.numerics.cases import Case
from anymamba.ops.calls import checks

CPU = torch.device("cpu")


def exact(x: Tensor, gain: Tensor) -> Tensor:
    """Step 1 and 2: the mathematics, which here serves as the plain PyTorch of every device too."""
    return x.tanh() * gain


def squash(x: Tensor, gain: Tensor, *, backend: str | None = None) -> Tensor:
    """Step 3: the public function."""
    grad = checks.tensors("squash", {"x": x, "gain": gain}, {})
    checks.shape("squash", "gain", gain, "(dim,)", (x.shape[-1],))
    return choose(Call("squash", x.device, x.dtype, grad, frozenset(), (("dim", x.shape[-1]),)), backend).function(x, gain)


def build(rows: int = 5, dim: int = 9) -> Build:
    def inputs(random: Random) -> Arguments:
        return {"x": random(rows, dim), "gain": random(dim)}

    return inputs


@pytest.fixture
def spec(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpSpec]:
    module = types.ModuleType("squash_module")
    module.squash, module.supports = exact, lambda call: (True, "plain PyTorch")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "squash_module", module)
    monkeypatch.setitem(reference.OPS, "squash", "squash_module")  # step 1
    monkeypatch.setitem(torch_backend.OPS, "squash", "squash_module")  # step 2
    monkeypatch.setattr(ops, "squash", squash, raising=False)  # step 3
    monkeypatch.setattr(selfcheck, "_verdicts", {})
    dispatch.forget()
    yield register(
        OpSpec(
            squash, build, differentiable=("x", "gain"), cases={"wide": build(2, 300)},
            bench=(Bench("R5-D9", {"rows": 5}, dtypes=("float32",)),),
        )
    )  # fmt: skip
    del SPECS["squash"]
    dispatch.forget()


def test_the_table_has_it(spec: OpSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "SPECS", {"squash": spec})
    cells = table.decide(CPU, torch.float32)["squash"]
    assert cells["torch"]["chosen"] and not cells["cpu"]["ok"]


def test_a_fast_kernel_is_checked_and_a_wrong_one_refused(spec: OpSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    x, gain = torch.randn(2, 3), torch.ones(3)
    fake.install(monkeypatch, "right", {"squash": lambda x, gain: x.tanh() * gain}, checked=True)
    squash(x, gain)
    assert dispatch.decided()["squash"] == "right"
    fake.install(monkeypatch, "wrong", {"squash": lambda x, gain: x.tanh() + gain}, checked=True)
    with pytest.warns(AnymambaWarning, match="'wrong': self-check failed"):
        squash(x, gain)


def test_verify_measures_it(spec: OpSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = (Case(spec, "typical", spec.build()), *(Case(spec, name, inputs) for name, inputs in spec.cases.items()))
    monkeypatch.setattr(op_errors, "CASES", cases)
    rows = list(op_errors.measure(CPU, only="squash"))
    assert {row.case for row in rows} == {"typical", "wide"} and all(row.ok for row in rows)


def test_bench_times_it(spec: OpSpec) -> None:
    made = {case.name: case for case in op_cases.cases() if case.name.startswith("squash")}
    assert set(made) == {"squash/R5-D9-fp32/forward", "squash/R5-D9-fp32/forward+backward"}
    contest = made["squash/R5-D9-fp32/forward+backward"].build(op_cases.Setting(CPU))
    contest.ours.run()
    assert contest.gate().ok


def test_the_harness_holds_backends_to_it(spec: OpSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    case = harness.Case("squash", "typical", spec.build())
    harness.check(case, "torch", torch.float32, monkeypatch)
    harness._exact.cache_clear()
    harness._plain.cache_clear()


def test_an_unknown_op_is_an_error_that_lists_those_that_exist() -> None:
    with pytest.raises(BackendError, match="'squish'") as caught:
        spec_of("squish")
    assert "selective_scan_fn" in str(caught.value)


def test_every_public_op_that_asks_a_backend_has_a_spec() -> None:
    asked: set[Any] = {name for name in reference.OPS if hasattr(ops, name)}
    assert asked == set(SPECS)

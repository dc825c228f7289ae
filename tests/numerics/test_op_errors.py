"""Planted faults are found and named by op; sound backends pass; a failed backend is not used any more."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anymamba.backends import REGISTRY, cpu, dispatch, layout, selfcheck
from anymamba.backends.call import Call
from anymamba.backends.opspec import SPECS
from anymamba.cli import main
from anymamba.numerics import op_errors
from anymamba.numerics.cases import CASES

CPU, FLOAT32 = torch.device("cpu"), (torch.float32,)

Function = Callable[..., Any]
Mutant = Callable[[Function], Function]


def changed_input(name: str, change: Callable[[Tensor], Tensor]) -> Mutant:
    """The op on another value of one argument, given by name."""

    def mutate(sound: Function) -> Function:
        return lambda **arguments: sound(**{**arguments, name: change(arguments[name])})

    return mutate


def changed_output(change: Callable[[Tensor], Tensor]) -> Mutant:
    """The op with its first output changed."""

    def mutate(sound: Function) -> Function:
        def mutant(**arguments: Any) -> Any:
            result = sound(**arguments)
            return (change(result[0]), *result[1:]) if isinstance(result, tuple) else change(result)

        return mutant

    return mutate


def flip_one_state(C: Tensor) -> Tensor:
    sign = torch.ones(C.shape[-2], dtype=C.dtype)
    sign[3] = -1
    return C * sign[:, None]


def repeat_at_border(out: Tensor) -> Tensor:
    """Token 64 shows what token 63 should."""
    if out.shape[-1] <= 64:
        return out
    return torch.cat([out[..., :64], out[..., 63:64], out[..., 65:]], -1)


def half_accumulator(sound: Function) -> Function:
    """The scan with its state in float16."""

    def mutant(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor, **_: Any
    ) -> Any:
        dt = torch.nn.functional.softplus(delta + delta_bias[:, None])
        h, outs = torch.zeros(u.shape[0], *A.shape), []
        for t in range(u.shape[-1]):
            h = torch.exp(dt[..., t, None] * A) * h + (dt[..., t] * u[..., t])[..., None] * B[:, None, :, t]
            h = h + (h.half().float() - h).detach()
            outs.append((h * C[:, None, :, t]).sum(-1))
        out = (torch.stack(outs, -1) + D[:, None] * u) * torch.nn.functional.silu(z)
        return (out, h.detach()) if _.get("return_last_state") else out

    return mutant


def forgets_at(border: int) -> Mutant:
    """Nothing of what stood before the border reaches what comes after it."""

    def mutate(sound: Function) -> Function:
        def mutant(x: Tensor, dt: Tensor, B: Tensor, C: Tensor, z: Tensor, initial_states: Tensor, **rest: Any) -> Any:
            first, second = slice(0, border), slice(border, None)
            parts = [
                sound(x=x[:, p], dt=dt[:, p], B=B[:, p], C=C[:, p], z=z[:, p], initial_states=s, **rest)
                for p, s in ((first, initial_states), (second, None))
                if x[:, p].shape[1]
            ]
            return torch.cat([out for out, _ in parts], 1), parts[-1][1]

        return mutant

    return mutate


def half_gradient(value: Tensor) -> Tensor:
    return value * 0.5 + value.detach() * 0.5


MUTANTS: dict[str, tuple[str, Mutant]] = {
    "wrong sign in one state": ("selective_scan_fn", changed_input("C", flip_one_state)),
    "float16 accumulator": ("selective_scan_fn", half_accumulator),
    "off by one at a chunk border": ("selective_scan_fn", changed_output(repeat_at_border)),
    "gradient of A halved": ("selective_scan_fn", changed_input("A", half_gradient)),
    "state lost at a chunk border": ("mamba_chunk_scan_combined", forgets_at(64)),
    "groups swapped": ("mamba_chunk_scan_combined", changed_input("B", lambda B: B.flip(2))),
    "decay passes no gradient to dt": ("mamba_chunk_scan_combined", changed_input("dt", half_gradient)),
    "convolution one token late": ("causal_conv1d_fn", changed_input("x", lambda x: torch.roll(x, 1, -1))),
    "last tap dropped": ("causal_conv1d_fn", changed_input("weight", lambda w: torch.cat([torch.zeros_like(w[:, :1]), w[:, 1:]], 1))),
    "bias after softplus": ("selective_state_update", changed_input("dt_bias", lambda bias: bias + 0.01)),
    "norm in too few digits": ("rms_norm_fn", changed_output(lambda y: y.half().float())),
    "gate not squashed": ("rmsnorm_fn", changed_input("z", lambda z: z * 1.001)),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_found_and_named(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, mutate = MUTANTS[name]
    module = importlib.import_module(importlib.import_module(REGISTRY[backend].module).OPS[op])
    monkeypatch.setattr(module, op, mutate(getattr(module, op)))
    found = next(
        (row for row in op_errors.measure(CPU, FLOAT32, only=op) if row.backend == backend and not row.ok), None
    )
    assert found is not None, "the fault passed"
    assert found.op == op and found.reason


def test_a_crash_is_a_failure_with_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr("anymamba.backends.torch.norm.rms_norm_fn", crash)
    row = next(row for row in op_errors.measure(CPU, FLOAT32, only="rms_norm_fn") if row.backend == "torch")
    assert not row.ok and "no kernel image" in row.reason


@pytest.mark.parametrize("op", sorted({case.op for case in CASES}))
def test_every_backend_here_is_within_the_criterion(op: str) -> None:
    rows = list(op_errors.measure(CPU, only=op))
    assert [row for row in rows if not row.ok] == []
    expected = {"torch", "cpu"} if op in cpu.OPS or SPECS[op].composed_of else {"torch"}
    assert expected <= {row.backend for row in rows}


def test_the_dispatcher_stops_using_what_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = Call("rms_norm_fn", CPU, torch.float32, True)
    dispatch.forget()
    assert dispatch.choose(call).backend == "cpu"
    sound = importlib.import_module(cpu.OPS["rms_norm_fn"])
    monkeypatch.setattr(sound, "rms_norm_fn", changed_output(lambda y: y * 1.01)(sound.rms_norm_fn))
    try:
        assert main(["verify", "--only", "rms_norm_fn", "--device", "cpu", "--dtypes", "float32", "--json"]) == 1
        document = json.loads(capsys.readouterr().out)
        assert not document["ok"] and any(row["backend"] == "cpu" and not row["ok"] for row in document["rows"])
        with pytest.warns(match="anymamba verify"):
            chosen = dispatch.choose(call)
        assert chosen.backend == "torch" and "anymamba verify" in dict(chosen.rejected)["cpu"]
    finally:
        selfcheck.forget()
        dispatch.forget()


CHOICE = """
import torch, warnings
import anymamba.ops
from anymamba.backends import dispatch
from anymamba.backends.call import Call
warnings.simplefilter("ignore")
choice = dispatch.choose(Call("rms_norm_fn", torch.device("cpu"), torch.float32, True))
print(choice.backend, dict(choice.rejected).get("cpu", ""))
"""


def test_another_process_stops_using_it_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the file of self-checks, which a process that knew nothing of the failure does not write over."""

    def chosen() -> str:
        return subprocess.run([sys.executable, "-c", CHOICE], capture_output=True, text=True, check=True).stdout

    monkeypatch.setenv("ANYMAMBA_CACHE_DIR", str(tmp_path))
    selfcheck.forget()
    assert chosen().startswith("cpu")
    sound = importlib.import_module(cpu.OPS["rms_norm_fn"])
    words = ["verify", "--only", "rms_norm_fn", "--device", "cpu", "--dtype", "fp32"]
    with monkeypatch.context() as planted:
        planted.setattr(sound, "rms_norm_fn", changed_output(lambda y: y * 1.01)(sound.rms_norm_fn))
        try:
            assert main(words) == 1
            assert "not used on this device: cpu rms_norm_fn" in " ".join(capsys.readouterr().out.split())
            stale = {"another op": [True, "checked by a process that read the file before"]}
            monkeypatch.setattr(selfcheck, "_verdicts", stale)
            selfcheck.record("cpu", cpu, Call("layer_norm_fn", CPU, torch.float32, False), True, "fine")
            assert chosen().startswith("torch anymamba verify, ")
        finally:
            selfcheck.forget()
            dispatch.forget()
    assert chosen().startswith("cpu")


def test_json_is_json_even_where_a_backend_crashes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr("anymamba.backends.torch.norm.rms_norm_fn", crash)
    try:
        assert main(["verify", "--only", "rms_norm_fn", "--device", "cpu", "--dtype", "fp32", "--json"]) == 1
    finally:
        selfcheck.forget()
        dispatch.forget()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    document = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert {row["error"] for row in document["rows"] if not row["ok"]} == {"inf"} and document["seconds"] > 0


def test_a_case_beyond_the_range_of_float16_is_no_fault() -> None:
    cases = {row.case for row in op_errors.measure(torch.device("cpu"), (torch.float16,), "selective_state_update")}
    assert "large states" not in cases
    assert "typical" in cases


def test_composed_ops_are_measured_by_backend() -> None:
    for op in ("mamba_inner_fn", "mamba_split_conv1d_scan_combined"):
        assert {"cpu", "torch"} <= {row.backend for row in op_errors.measure(CPU, FLOAT32, only=op)}


def test_inputs_lie_in_memory_as_asked() -> None:
    wide = torch.arange(24.0).view(4, 6)
    for pattern in (wide[:, :3], wide[:, :1].expand(4, 5), wide.t(), wide[::2, 1::2]):
        got = layout.like(pattern.double().contiguous(), pattern)
        assert got.stride() == pattern.stride() and torch.equal(got, pattern.double())
    assert layout.like(torch.zeros(4, 3), wide[:, :3]).untyped_storage().size() == 4 * (3 * 6 + 3)


def test_verify_passes_here_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--only", "rmsnorm", "--device", "cpu"]) == 0
    assert "within the criterion" in capsys.readouterr().out
    assert main(["verify", "--only", "nonsense", "--device", "cpu"]) == 2

"""A backend is trusted after it has reproduced the reference; its verdict is kept, and nothing that goes wrong around it crashes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.backends import fake

from anymamba import cachefolder, errors, ops
from anymamba.backends import dispatch, probes, selfcheck, table
from anymamba.backends.call import Call
from anymamba.backends.opspec import SPECS
from anymamba.errors import AnymambaWarning, BackendError
from anymamba.reference import mamba_inner
from anymamba.reference import norm as exact

CALL = Call("rms_norm_fn", torch.device("cpu"), torch.float32)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ANYMAMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(selfcheck, "_verdicts", None)
    monkeypatch.setattr(errors, "_said", set())
    dispatch.forget()
    yield tmp_path
    dispatch.forget()


def right(x: Any, weight: Any, bias: Any, residual: Any = None, *_: Any, prenorm: bool = False, **__: Any) -> Any:
    return exact.rms_norm_fn(x, weight, bias, residual, prenorm=prenorm)


def slightly_wrong(x: Any, weight: Any, bias: Any, residual: Any = None, *_: Any, prenorm: bool = False, **__: Any) -> Any:
    """A kernel that forgets its last column."""
    y, total = exact.rms_norm_fn(x, weight, bias, residual, prenorm=prenorm)
    last = torch.ones_like(y)
    last[..., -1] = 0.9
    return y * last, total


def wrong_gradient(x: Any, weight: Any, bias: Any, residual: Any = None, *_: Any, prenorm: bool = False, **__: Any) -> Any:
    y, total = exact.rms_norm_fn(x, weight, bias, residual, prenorm=prenorm)
    return y + (weight - weight.detach()), total


def not_a_number(*given: Any, **options: Any) -> Any:
    y, total = right(*given, **options)
    return y * float("nan"), total


def crashing(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no kernel image is available for execution on the device")


def serve(monkeypatch: pytest.MonkeyPatch, function: Any) -> Any:
    return fake.install(monkeypatch, "ours", {"rms_norm_fn": function}, checked=True)


def verdict(grad: bool = False) -> tuple[bool, str]:
    call = Call(CALL.op, CALL.device, CALL.dtype, grad)
    return dispatch.verdict(dispatch.REGISTRY["ours"], call)


def test_a_right_kernel_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, right)
    for grad in (False, True):
        ok, reason = verdict(grad)
        assert ok and "passed" in reason


def test_a_wrong_kernel_is_rejected_with_the_measured_error(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, slightly_wrong)
    ok, reason = verdict()
    assert not ok
    assert "output 0 is off by 0.0" in reason and "allowed 2e-04" in reason


def test_a_wrong_gradient_is_found_only_where_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, wrong_gradient)
    assert verdict(grad=False)[0]
    ok, reason = verdict(grad=True)
    assert not ok and "gradient of weight is off by" in reason


def test_what_the_caller_has_switched_on_does_not_reach_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call("mamba_inner_fn", torch.device("cpu"), torch.float32, True)
    module = fake.install(monkeypatch, "ours", {"mamba_inner_fn": mamba_inner.mamba_inner_fn})
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        ok, reason = selfcheck.run(module, call)
    assert ok, reason


def test_nan_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, not_a_number)
    ok, reason = verdict()
    assert not ok and "nan" in reason


def test_a_crashing_kernel_is_rejected_with_the_text_of_its_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, crashing)
    ok, reason = verdict()
    assert not ok
    assert "RuntimeError: no kernel image is available for execution on the device" in reason
    with pytest.warns(AnymambaWarning, match="no kernel image is available"):
        out = ops.rms_norm_fn(torch.randn(3, 4), torch.ones(4), None)
    assert out.shape == (3, 4)
    with pytest.raises(BackendError, match="no kernel image is available"):
        ops.rms_norm_fn(torch.randn(3, 4), torch.ones(4), None, backend="ours")


def test_a_variant_is_checked_with_inputs_that_take_it_and_rejected_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel for narrow rows that is right, one for wide rows that crashes."""
    widths: list[int] = []

    def narrow_only(x: Any, *given: Any, **options: Any) -> Any:
        widths.append(x.shape[-1])
        if x.shape[-1] > 64:
            raise RuntimeError("no room for registers")
        return right(x, *given, **options)

    def variant(call: Call) -> str:
        return "wide rows" if call.size("dim") > 64 else "narrow rows"

    fake.install(monkeypatch, "ours", {"rms_norm_fn": narrow_only}, checked=True, variant=variant)
    assert ops.rms_norm_fn(torch.randn(3, 48), torch.ones(48), None).shape == (3, 48)
    assert set(widths) == {48}
    with pytest.warns(AnymambaWarning, match="'ours': self-check crashed: RuntimeError: no room for registers"):
        ops.rms_norm_fn(torch.randn(3, 300), torch.ones(300), None)
    assert set(widths) == {48, 300}
    served = {call.size("dim"): choice.backend for call, choice in dispatch.choices_made()}
    assert served[48] == "ours" and served[300] != "ours"
    kept = json.loads((cachefolder.cache_folder() / "selfcheck.json").read_text("utf-8"))
    assert {bool(verdict[0]) for key, verdict in kept.items() if "| wide rows |" in key} == {False}
    assert {bool(verdict[0]) for key, verdict in kept.items() if "| narrow rows |" in key} == {True}


def test_the_table_shows_variants_and_check_runs_those_of_published_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def variant(call: Call) -> str:
        return f"rows of {call.size('dim')}"

    def broken_at_2560(x: Any, *given: Any, **options: Any) -> Any:
        y, total = right(x, *given, **options)
        return (y * 1.1 if x.shape[-1] == 2560 else y), total

    fake.install(monkeypatch, "ours", {"rms_norm_fn": broken_at_2560}, checked=True, variant=variant)
    monkeypatch.setattr(table, "REGISTRY", dispatch.REGISTRY)
    monkeypatch.setattr(table, "SPECS", {"rms_norm_fn": SPECS["rms_norm_fn"]})
    cell = table.decide(CALL.device, CALL.dtype)["rms_norm_fn"]["ours"]
    assert cell["ok"] and not cell["failed"] and cell["variant"] == "rows of 20" and cell["variants"] == {}
    cell = table.decide(CALL.device, CALL.dtype, check=True)["rms_norm_fn"]["ours"]
    assert cell["ok"] and cell["failed"]
    assert [name for name, verdict in cell["variants"].items() if not verdict["ok"]] == ["rows of 2560"]
    assert "is off by" in cell["variants"]["rows of 2560"]["reason"]


def test_the_verdict_is_kept_on_disk_and_dropped_with_new_versions(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    runs: list[int] = []

    def counting(*given: Any, **options: Any) -> Any:
        runs.append(1)
        return right(*given, **options)

    package = serve(monkeypatch, counting)
    assert verdict()[0] and len(runs) == 1
    monkeypatch.setattr(selfcheck, "_verdicts", None)  # as a new process would find it
    assert verdict()[0] and len(runs) == 1
    kept = json.loads((empty_cache / "selfcheck.json").read_text("utf-8"))
    assert any(key.startswith("rms_norm_fn | ours | cpu | float32 | forward") for key in kept)
    package.versions = lambda: "2"
    assert verdict()[0] and len(runs) == 2
    selfcheck.forget()
    assert verdict()[0] and len(runs) == 3


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe", b'{"a": 1}'])
def test_a_damaged_cache_file_is_no_cache(content: bytes, monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    (empty_cache / "selfcheck.json").write_bytes(content)
    serve(monkeypatch, right)
    assert verdict()[0]


def test_a_damaged_entry_is_checked_again(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    serve(monkeypatch, right)
    assert verdict()[0]
    file = empty_cache / "selfcheck.json"
    file.write_text(json.dumps(dict.fromkeys(json.loads(file.read_text("utf-8")), 5)), "utf-8")
    monkeypatch.setattr(selfcheck, "_verdicts", None)
    ok, reason = verdict()
    assert ok and "passed" in reason


def test_an_unwritable_cache_folder_costs_one_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")  # root may write to read-only folders, but not below a file
    monkeypatch.setenv("ANYMAMBA_CACHE_DIR", str(blocked / "cache"))
    serve(monkeypatch, right)
    with pytest.warns(AnymambaWarning, match="cache folder .* cannot be written") as caught:
        assert verdict()[0] and verdict(grad=True)[0]
    assert len([w for w in caught if "cache folder" in str(w.message)]) == 1
    assert "ANYMAMBA_CACHE_DIR" in str(caught[0].message)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_read_only_cache_folder_costs_one_warning(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    empty_cache.chmod(stat.S_IRUSR | stat.S_IXUSR)
    serve(monkeypatch, right)
    with pytest.warns(AnymambaWarning, match="cannot be written"):
        assert verdict()[0]
    assert cachefolder.read_json("selfcheck.json") is None


def test_without_llvmlite_the_next_backend_serves() -> None:
    """In a process of its own: modules that were imported without llvmlite must not stay behind for other tests."""
    code = """
import sys, warnings
sys.modules["llvmlite"] = None  # import llvmlite now raises ModuleNotFoundError
import torch
from anymamba import ops
from anymamba.backends import dispatch
from anymamba.backends.call import Call
from anymamba.backends.opspec import SPECS
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert isinstance(ops.rms_norm_fn(torch.randn(3, 4), torch.ones(4), None), torch.Tensor)
assert any("llvmlite" in str(warning.message) for warning in caught), caught
choice = dispatch.choose(Call("rms_norm_fn", torch.device("cpu"), torch.float32, False, frozenset()))
assert choice.backend == "torch" and any(name == "cpu" and "llvmlite" in reason for name, reason in choice.rejected)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("op", SPECS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_probe_passes_on_plain_torch(op: str, dtype: torch.dtype) -> None:
    """So a rejection is the backend's fault and not the probe's."""
    grad = "update" not in op
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnymambaWarning)
        error, where = probes.largest_error(
            lambda **given: getattr(ops, op)(**given, backend="torch"), Call(op, torch.device("cpu"), dtype, grad)
        )
    assert error <= selfcheck.TOLERANCE[dtype] / 2, where


@pytest.mark.parametrize("op", SPECS)
def test_every_probe_notices_a_wrong_result(op: str) -> None:
    """One output element off by a tenth of the largest is enough."""

    def off(**given: Any) -> Any:
        out = getattr(ops, op)(**given, backend="torch")
        first = out[0] if isinstance(out, tuple) else out
        bump = torch.zeros(first.shape, dtype=first.dtype)
        bump.view(-1)[-1] = 0.1 * first.abs().max()
        return (first + bump, *out[1:]) if isinstance(out, tuple) else first + bump

    error, where = probes.largest_error(off, Call(op, torch.device("cpu"), torch.float32))
    assert error > 0.05 and where == "output 0"


def test_a_first_call_inside_gradient_checkpointing_is_judged_fairly() -> None:
    from torch.utils.checkpoint import checkpoint

    x, weight = torch.randn(2, 3, 16, requires_grad=True), torch.randn(16, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AnymambaWarning)
        y = checkpoint(lambda x: ops.rms_norm_fn(x, weight, None), x, use_reentrant=False)
        y.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert [choice.backend for _, choice in dispatch.choices_made()] == ["cpu"]

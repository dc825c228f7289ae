"""The harness itself can fail: a kernel with a small fault does not get past it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.backends import fake
from tests.ops.harness import TOLERANCE, check, skip_unless_here
from tests.ops.test_selective_scan import CASES

from anymamba.backends import REGISTRY, Entry
from anymamba.reference import selective_scan

CASE = next(case for case in CASES if case.name == "only-D")


def scan_with(fault: str) -> Any:
    def function(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, *rest: Any) -> Any:
        if fault == "gradient of D":
            D = D + 0.1 * (D - D.detach())
        out = selective_scan.selective_scan_fn(u, delta, A, B, C, D, *rest)
        if fault == "last column unwritten":
            out = torch.cat([out[..., :-1], torch.empty_like(out[..., -1:])], dim=-1)
        if fault == "state in 16 bits":
            B = B + (B.bfloat16() - B).detach()
            out = selective_scan.selective_scan_fn(u, delta, A, B, C, D, *rest)
        if fault == "shape":
            out = out[..., :-1]
        return out

    return function


@pytest.fixture
def harness_with(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(function: Any, **options: Any) -> None:
        fake.install(monkeypatch, "ours", {"selective_scan_fn": function}, **options)
        monkeypatch.setitem(REGISTRY, "ours", Entry("ours", "fake_backend_ours", checked=False))

    return install


def test_a_right_kernel_passes(harness_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    harness_with(scan_with("none"))
    check(CASE, "ours", torch.float32, monkeypatch)


@pytest.mark.parametrize("fault", ["gradient of D", "last column unwritten", "state in 16 bits", "shape"])
def test_a_fault_is_found(fault: str, harness_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    harness_with(scan_with(fault))
    with pytest.raises(AssertionError) as caught:
        check(CASE, "ours", torch.float32, monkeypatch)
    if fault == "gradient of D":
        assert "gradient of D: error" in str(caught.value)
        assert "gradient of A" not in str(caught.value)


def test_an_unsupported_call_is_skipped_with_its_reason(harness_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    harness_with(scan_with("none"), supports=lambda call: (False, "not with D"))
    with pytest.raises(pytest.skip.Exception, match="ours: not with D"):
        check(CASE, "ours", torch.float32, monkeypatch)


def test_a_new_refusal_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from anymamba.backends.cpu.scan import selective_scan as kernels

    monkeypatch.setattr(kernels, "supports", lambda call: (False, "not today"))
    with pytest.raises(pytest.fail.Exception, match="which it has to support.*not today"):
        check(CASE, "cpu", torch.float32, monkeypatch)
    complex_case = next(case for case in CASES if case.name == "complex")
    with pytest.raises(pytest.skip.Exception, match="not today"):
        check(complex_case, "cpu", torch.float32, monkeypatch)


def test_a_crash_is_not_skipped(harness_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def supports(call: Any) -> tuple[bool, str]:
        raise KeyError("d_state")

    harness_with(scan_with("none"), supports=supports)
    with pytest.raises(Exception, match="KeyError"):
        check(CASE, "ours", torch.float32, monkeypatch)


def test_a_backend_that_is_not_there_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, "later", Entry("later", "anymamba.backends.later"))
    with pytest.raises(pytest.skip.Exception, match="'later' is not part of this checkout"):
        skip_unless_here("later")


def test_the_yardstick_is_held_to_an_absolute_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOLERANCE, torch.float32, 1e-12)
    with pytest.raises(AssertionError, match="allowed 1e-12"):
        check(CASE, "torch", torch.float32, monkeypatch)


@pytest.mark.parametrize("make", ["empty", "empty_like", "empty_strided", "new_empty"])
def test_unwritten_memory_is_nan(make: str) -> None:
    like = torch.zeros(3, dtype=torch.bfloat16)
    tensor = {
        "empty": lambda: torch.empty(3),
        "empty_like": lambda: torch.empty_like(like),
        "empty_strided": lambda: torch.empty_strided((3,), (1,)),
        "new_empty": lambda: like.new_empty(3),
    }[make]()
    assert tensor.isnan().all()
    assert torch.empty(2, dtype=torch.int64).eq(torch.iinfo(torch.int64).max).all()

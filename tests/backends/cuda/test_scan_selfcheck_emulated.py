"""The column's own scan, as the dispatcher would check it on a card of two multiprocessors, on a processor as in test_scan_emulated."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.backends.cuda.test_scan_emulated import EmulatedKernel

import anymamba.ops  # noqa: F401 - it registers the spec
from anymamba.backends import selfcheck
from anymamba.backends.call import Call
from anymamba.backends.cuda import (
    nvrtc,
    selective_scan,
    selective_scan_channels_backward,
    selective_scan_launch,
    selective_scan_rows_launch,
    selective_scan_variants,
)
from anymamba.backends.refusal import NotCompiled
from anymamba.reference import selective_scan as reference

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("emulated")


@pytest.fixture(autouse=True)
def emulated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The files of the kernels that were launched."""
    launched: set[str] = set()

    def kernel(file: str, entry: str, defines: Mapping[str, object], device: torch.device) -> EmulatedKernel:
        launched.add(file)
        return EmulatedKernel(folder, file, entry, defines)

    monkeypatch.setattr(nvrtc, "kernel", kernel)
    monkeypatch.setattr(nvrtc, "usable", lambda device: (True, ""))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    for module in (selective_scan_launch, selective_scan_rows_launch):
        monkeypatch.setattr(module, "processors", lambda device: 2)
    for module in (selective_scan_channels_backward, selective_scan_rows_launch):
        monkeypatch.setattr(module, "_compiled", set())
    return launched


def call(grad: bool, features: str, dtype: torch.dtype = torch.float32, **sizes: int) -> Call:
    return Call("selective_scan_fn", CPU, dtype, grad, frozenset(features.split()), tuple(sorted(sizes.items())))


ROWS = {"batch": 1, "dim": 6, "length": 72, "d_state": 3, "ngroups": 1}
CHANNELS = {"batch": 1, "dim": 24, "length": 150, "d_state": 16, "ngroups": 1}


@pytest.mark.parametrize(
    "one",
    [
        call(False, "z length_contiguous", **ROWS),
        pytest.param(call(True, "z length_contiguous", **ROWS), marks=pytest.mark.slow),
        pytest.param(call(True, "length_contiguous float32_B constant_C", torch.bfloat16, **ROWS), marks=pytest.mark.slow),
        pytest.param(call(True, "z", torch.bfloat16, **ROWS), marks=pytest.mark.slow),
        pytest.param(call(True, "z aligned", torch.bfloat16, **CHANNELS), marks=pytest.mark.slow),
        pytest.param(call(True, "z aligned", **{**CHANNELS, "length": 60}), marks=pytest.mark.slow),
        pytest.param(call(True, "aligned float32_B float32_C", torch.bfloat16, **CHANNELS), marks=pytest.mark.slow),
    ],
    ids=lambda one: f"{sorted(one.features)} {one.dtype} {one.grad}",
)
def test_the_self_check_passes_and_reaches_the_kernels_of_the_call(one: Call, emulated: set[str]) -> None:
    assert selective_scan.supports(one)[0]
    ok, reason = selfcheck.run(selective_scan, one)  # type: ignore[arg-type]
    assert ok, reason
    if selective_scan_variants._along_channels(one):
        forward = "scan_split.cu" if "split" in selective_scan.variant(one) else "scan_forward.cu"
        wanted = {forward, "scan_backward.cu", "scan_sums.cu"} | ({"scan_carry.cu"} if "carry" in selective_scan.variant(one) else set())
    else:
        wanted = {"rows_forward.cu"} | ({"rows_backward.cu", "rows_sums.cu"} if one.grad else set())
    assert wanted <= emulated


def test_a_kernel_that_only_backward_needs_is_refused_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the dispatcher can still leave the call to the next backend."""
    made: list[str] = []

    def refuse(file: str, *_: Any) -> Any:
        made.append(file)
        if "backward" in file:
            raise NotCompiled("error: no such thing")
        return None

    monkeypatch.setattr(nvrtc, "kernel", refuse)
    for layout, d_state in (("channels", 16), ("length", 4)):
        tensors = [torch.randn(1, 8, 40) if layout == "length" else torch.randn(1, 40, 8).mT for _ in range(2)]
        matrices = [torch.randn(1, d_state, 40) for _ in "BC"]
        u = tensors[0].detach().requires_grad_()
        with pytest.raises(NotCompiled, match="no such thing"):
            selective_scan.selective_scan_fn(u, tensors[1], -torch.rand(8, d_state), *matrices)
    assert not any("forward" in file for file in made)
    prepare: Any = selective_scan.selective_scan_fn.prepare  # type: ignore[attr-defined]
    assert prepare(u, tensors[1], -torch.rand(8, 4), *matrices, None, None, None, False, False, True) is None


def test_b_and_c_may_have_other_numbers_of_groups() -> None:
    u, A = torch.randn(1, 12, 9), -torch.rand(12, 2)
    B, C = torch.randn(1, 2, 2, 9), torch.randn(1, 3, 2, 9)
    for matrices in ((B, C), (B, C[:, 0]), (B[:, 1], C)):
        got = selective_scan.selective_scan_fn(u, u.abs(), A, *matrices)
        assert isinstance(got, torch.Tensor)
        torch.testing.assert_close(got, reference.selective_scan_fn(u, u.abs(), A, *matrices))
        prepare: Any = selective_scan.selective_scan_fn.prepare  # type: ignore[attr-defined]
        assert prepare(u, u, A, *matrices, None, None, None, False, False, False) is None


def test_what_it_cannot_do_is_said() -> None:
    for features, sizes, word in (("complex_A", ROWS, "complex"), ("float64_A", ROWS, "float64_A"), ("", {**ROWS, "d_state": 257}, "256")):
        ok, why = selective_scan.supports(call(False, features, **sizes))
        assert not ok and word in why
    assert "float64" in selective_scan.supports(call(False, "", torch.float64, **ROWS))[1]

"""The scan kernels for steps side by side in memory, on a processor as in test_scan_emulated, against the reference."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from tests.backends.cuda.test_scan_emulated import EmulatedKernel

from anymamba.backends.cuda import nvrtc, selective_scan_rows_launch
from anymamba.backends.cuda.selective_scan_documents import marks_of
from anymamba.backends.cuda.selective_scan_rows_launch import RowsPlan as Plan
from anymamba.reference.selective_scan import selective_scan_fn

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

ALLOWED = {torch.float32: 4e-6, torch.bfloat16: 6e-3, torch.float16: 1e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("emulated")


@pytest.fixture(autouse=True)
def emulated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(file: str, entry: str, defines: Mapping[str, object], device: torch.device) -> EmulatedKernel:
        return EmulatedKernel(folder, file, entry, defines)

    monkeypatch.setattr(nvrtc, "kernel", kernel)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())


QUICK = [((2, 5, 70), 3, torch.bfloat16, Plan(8, 1, 1), Plan(8, 1, 1), "Dzbs", 1)]
SLOW = [
    ((2, 40, 150), 16, torch.bfloat16, Plan(16, 2, 2, unroll=2), Plan(16, 2, 4), "Dzbs", 1),
    ((2, 40, 150), 16, torch.float32, Plan(8, 2, 1), Plan(8, 2, 4, unroll=2), "Dzbs", 1),
    ((1, 6, 600), 2, torch.bfloat16, Plan(32, 1, 1, 4), Plan(32, 1, 2, 2), "Dzbs", 2),
    ((1, 7, 601), 1, torch.float16, Plan(32, 2, 1, 2), Plan(32, 2, 1, 4), "Dzbs", 1),
    ((1, 12, 100), 5, torch.float32, Plan(32, 1, 2), Plan(8, 2, 2), "zb B", 3),
    ((1, 12, 96), 5, torch.float32, Plan(32, 1, 2), Plan(8, 2, 2), "D BC", 1),
    ((1, 3, 9), 4, torch.bfloat16, Plan(8, 4, 1), Plan(16, 1, 2), " C", 1),
    ((1, 3, 2), 4, torch.bfloat16, Plan(8, 4, 1), Plan(16, 1, 2), "zs", 3),
    ((1, 8, 300), 4, torch.float32, Plan(32, 1, 1, 2), Plan(32, 2, 2, 2), "Ds BC", 1),
    ((1, 4, 70), 70, torch.bfloat16, Plan(32, 1, 2), Plan(32, 1, 4), "zs", 2),
]


@pytest.mark.parametrize(
    "sizes,d_state,dtype,forward,backward,options,groups", [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_emulated_rows_reproduce_the_reference(
    sizes: tuple[int, int, int], d_state: int, dtype: torch.dtype, forward: Plan, backward: Plan, options: str, groups: int
) -> None:
    """options: D, z, b(ias), s(oftplus); behind a space which of B and C are constant in time."""
    torch.manual_seed(0)
    batch, channels, length = sizes
    given, constant = (options + " ").split(" ")[:2]
    softplus = "s" in given

    def rows(*width: int) -> torch.Tensor:
        return torch.randn(batch, *width, length).to(dtype)

    def matrix(name: str) -> torch.Tensor:
        if name in constant:
            return torch.randn(channels, d_state)
        return rows(groups, d_state) if groups > 1 else rows(d_state)

    delta = rows(channels) if softplus else (rows(channels).float().abs() * 0.3).to(dtype)
    dout = rows(channels)
    tensors: list[Any] = [
        rows(channels), delta, -torch.rand(channels, d_state) * 4, matrix("B"), matrix("C"),
        torch.randn(channels) if "D" in given else None, rows(channels) if "z" in given else None,
        torch.rand(channels) if "b" in given else None,
    ]  # fmt: skip
    exact = [None if t is None else t.double().requires_grad_() for t in tensors]
    out, last = selective_scan_fn(*exact, delta_softplus=softplus, return_last_state=True)
    want = iter([out, last, *torch.autograd.grad(out, [t for t in exact if t is not None], dout.double())])
    launch = selective_scan_rows_launch
    got_out, got_last, states = launch.scan_forward(*tensors, softplus, True, backward.tile, forward)
    assert states is not None
    gradients = launch.scan_backward(dout, *tensors, softplus, states, backward)
    for result in [got_out, got_last, *gradients]:
        if result is not None:
            expected = next(want)
            assert (result.double() - expected).norm() <= ALLOWED[dtype] * expected.norm()


BEYOND = [
    ((2, 5, 70), 3, torch.bfloat16, Plan(8, 1, 1), Plan(8, 1, 1), "zs"),
    pytest.param((2, 12, 300), 4, torch.float32, Plan(16, 2, 2), Plan(16, 2, 2), "zs", marks=pytest.mark.slow),
    pytest.param((1, 6, 700), 2, torch.float32, Plan(32, 1, 1, 4), Plan(32, 1, 2, 2), "s", marks=pytest.mark.slow),
    pytest.param((1, 6, 600), 2, torch.float32, Plan(32, 1, 1, 2), Plan(32, 1, 1, 2), "s", marks=pytest.mark.slow),
    pytest.param((2, 7, 45), 5, torch.float16, Plan(32, 1, 2), Plan(8, 2, 2), "s", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("packed,from_state", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("sizes,d_state,dtype,forward,backward,options", BEYOND)
def test_emulated_rows_of_documents_and_from_a_state(
    sizes: tuple[int, int, int], d_state: int, dtype: torch.dtype, forward: Plan, backward: Plan, options: str, packed: bool,
    from_state: bool,
) -> None:
    torch.manual_seed(0)
    batch, channels, length = sizes

    def rows(*width: int) -> torch.Tensor:
        return torch.randn(batch, *width, length).to(dtype)

    gate = rows(channels) if "z" in options else None
    tensors: list[Any] = [
        rows(channels), rows(channels), -torch.rand(channels, d_state), rows(d_state), rows(d_state), torch.randn(channels), gate, None
    ]  # fmt: skip
    dout = rows(channels)
    seq_idx = torch.randint(0, 9, (batch, length // 5)).sort().values.repeat_interleave(5, 1)
    seq_idx = torch.nn.functional.pad(seq_idx, (length - seq_idx.shape[1], 0), value=0)
    seq_idx[0, :2], seq_idx[0, 17:20] = -1, -1
    for x in [dout, *(tensors[i] for i in (0, 1, 3, 4))]:
        if packed:
            x[0, :, 17:20] = torch.nan  # what padding holds reaches nothing
    initial = torch.randn(batch, channels, d_state) if from_state else None
    clean = [None if t is None else torch.nan_to_num(t).double().requires_grad_() for t in (*tensors, initial)]
    *given, start = clean
    options_of = {"delta_softplus": True, "return_last_state": True}
    out, last = selective_scan_fn(*given, **options_of, initial_states=start, seq_idx=seq_idx if packed else None)
    want = [out, last, *torch.autograd.grad(out, [t for t in clean if t is not None], torch.nan_to_num(dout).double())]
    launch = selective_scan_rows_launch
    marks = marks_of(seq_idx) if packed else None
    got_out, got_last, states = launch.scan_forward(*tensors, True, True, backward.tile, forward, initial, marks)
    assert states is not None
    dinitial = torch.empty_like(initial) if initial is not None else None
    gradients = launch.scan_backward(dout, *tensors, True, states, backward, marks, dinitial)
    got = [result for result in (got_out, got_last, *gradients, dinitial) if result is not None]
    assert len(got) == len(want)
    for result, expected in zip(got, want):
        assert (result.double() - expected).norm() <= ALLOWED[dtype] * expected.norm()


def test_channels_side_by_side_become_rows() -> None:
    x = torch.randn(2, 37, 50).transpose(1, 2)
    padded = selective_scan_rows_launch._copy(x, 40)
    assert torch.equal(padded[..., :37], x) and not padded[..., 37:].any()
    x = torch.randn(1, 70, 130).bfloat16().transpose(1, 2)
    assert torch.equal(selective_scan_rows_launch.rows(x), x) and selective_scan_rows_launch.rows(x).is_contiguous()

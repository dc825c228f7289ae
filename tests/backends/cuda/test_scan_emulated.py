"""The CUDA C++ scan kernels on a processor: compiled by g++ with emulator.h, whose lanes are fibres, against the reference."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import re
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from anymamba.backends.cuda import (
    nvrtc,
    selective_scan,
    selective_scan_channels_backward,
    selective_scan_launch,
    selective_scan_rows_launch,
)
from anymamba.backends.cuda.selective_scan_launch import ChannelsPlan as Plan
from anymamba.reference.selective_scan import selective_scan_fn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
]

_ENTRY = """
static {arguments} given; static void go() {{ {entry}(given); }}
extern "C" void launch(long grid, int threads, const void* bytes) {{ memcpy(&given, bytes, sizeof given); run_grid(grid, threads, go); }}
extern "C" long size() {{ return sizeof(given); }}
"""


class EmulatedKernel:
    """Stands in for nvrtc.Kernel. unit_error: relative, of the unit for exponentials."""

    def __init__(self, folder: Path, file: str, entry: str, defines: Mapping[str, object], unit_error: float = 0.0) -> None:
        text = nvrtc.source(file, defines).replace("extern __shared__ __align__(16) float shared[];", "")
        arguments = re.search(entry + r"\(const (\w+) p\)", text)
        assert arguments
        emulator = (Path(__file__).parent / "emulator.h").read_text()
        text = f"#define UNIT_ERROR {unit_error!r}f\n" + emulator + text + _ENTRY.format(arguments=arguments.group(1), entry=entry)
        path = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        if not path.with_suffix(".so").exists():
            path.with_suffix(".cpp").write_text(text)
            command = ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-o", path.with_suffix(".so"), path.with_suffix(".cpp")]
            subprocess.run(command, check=True)
        self.library = ctypes.CDLL(str(path.with_suffix(".so")))
        self.library.size.restype = ctypes.c_long

    def launch(self, grid: int, threads: int, shared: int, arguments: list[int]) -> None:
        assert shared <= 99 * 1024  # what an sm_120 block may have
        packed = struct.pack(f"{len(arguments)}q", *arguments)
        assert self.library.size() == len(packed)
        self.library.launch(ctypes.c_long(grid), threads, packed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("emulated")


@pytest.mark.parametrize(
    "sizes,dtype,forward,backward,options,groups",
    [
        ((2, 40, 70), torch.bfloat16, Plan(4, 4, 16, 1), Plan(4, 2, 8, 2, chunks=3), "Dzbs", 1),
        ((2, 40, 70), torch.float16, Plan(4, 1, 32, 1, chunks=3), Plan(4, 2, 8, 4, chunks=2), "Dzbs", 1),
        ((2, 64, 50), torch.float32, Plan(8, 1, 16, 1, unroll=8, chunks=2, polynomial=1), Plan(4, 2, 8, 2), "zbs", 1),
        ((1, 24, 40), torch.bfloat16, Plan(2, 1, 32, 2, unroll=2, chunks=5), Plan(4, 2, 8, 2, chunks=2), "", 1),
        ((2, 40, 70), torch.bfloat16, Plan(2, 1, 32, 4, unroll=2, split=True), Plan(4, 2, 8, 2), "Dzbs", 1),
        ((1, 72, 131), torch.float32, Plan(4, 1, 32, 4, polynomial=1, split=True), Plan(4, 2, 8, 2, chunks=2), "zb", 1),
        ((1, 256, 20), torch.float16, Plan(1, 1, 32, 8, unroll=1, split=True), Plan(2, 4, 8, 2), "Ds", 2),
        ((2, 40, 150), torch.bfloat16, Plan(2, 1, 64, 3, unroll=8, split=True), Plan(4, 2, 8, 2), "Dzbs", 1),
        ((1, 72, 131), torch.float32, Plan(2, 1, 64, 3, unroll=8, split=True), Plan(4, 2, 8, 2), "zb", 1),
        ((1, 256, 70), torch.float16, Plan(2, 1, 64, 3, unroll=8, split=True), Plan(4, 2, 8, 2), "Ds", 2),
        ((1, 256, 20), torch.float32, Plan(8, 1, 16, 1, unroll=8), Plan(2, 4, 8, 2, chunks=2), "Db", 2),
    ],
)
def test_emulated_scan_reproduces_the_reference(
    sizes: tuple[int, int, int],
    dtype: torch.dtype,
    forward: Plan,
    backward: Plan,
    options: str,
    groups: int,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check(sizes, dtype, forward, backward, options, groups, folder, monkeypatch)


@pytest.mark.parametrize(
    "forward", [Plan(8, 1, 16, 1, unroll=8, chunks=2, polynomial=1), Plan(8, 1, 16, 1), Plan(2, 1, 32, 4, unroll=2, split=True)]
)
def test_decays_of_float32_do_not_trust_the_unit_for_exponentials(
    forward: Plan, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check((1, 64, 50), torch.float32, forward, Plan(4, 2, 8, 2, chunks=2), "Db", 1, folder, monkeypatch, unit_error=1e-3)


def check(
    sizes: tuple[int, int, int],
    dtype: torch.dtype,
    forward: Plan,
    backward: Plan,
    options: str,
    groups: int,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    unit_error: float = 0.0,
) -> None:
    def kernel(file: str, entry: str, defines: Mapping[str, object], device: torch.device) -> EmulatedKernel:
        return EmulatedKernel(folder, file, entry, defines, unit_error)

    monkeypatch.setattr(nvrtc, "kernel", kernel)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    batch, channels, length = sizes

    def rows(width: int) -> Any:
        return torch.randn(batch, length, width).to(dtype).transpose(1, 2)

    softplus = "s" in options
    u, dout = rows(channels), rows(channels)
    delta = rows(channels) if softplus else (rows(channels).float().abs() * 0.3).to(dtype)
    B, C = rows(16 * groups), rows(16 * groups)
    if groups > 1:
        B, C = (x.unflatten(1, (groups, 16)) for x in (B, C))
    D = torch.randn(channels) if "D" in options else None
    z = rows(channels) if "z" in options else None
    bias = torch.rand(channels) if "b" in options else None
    given = [u, delta, -torch.rand(channels, 16) * 4, B, C, D, z, bias]
    exact = [None if t is None else t.double().requires_grad_() for t in given]
    out, last = selective_scan_fn(*exact, delta_softplus=softplus, return_last_state=True)  # type: ignore[arg-type]
    want = iter([out, last, *torch.autograd.grad(out, [t for t in exact if t is not None], dout.double())])
    got_out, got_last, states = selective_scan_launch.scan_forward(*given, softplus, True, backward.window, forward)  # type: ignore[arg-type]
    assert states is not None
    gradients = selective_scan_channels_backward.scan_backward(dout, *given, softplus, states, backward)  # type: ignore[arg-type]
    allowed = {torch.float32: 4e-6, torch.bfloat16: 6e-3, torch.float16: 1e-3}[dtype]
    for result in [got_out, got_last, *gradients]:
        if result is not None:
            expected = next(want)
            assert (result.double() - expected).norm() <= allowed * expected.norm()


@pytest.mark.parametrize("layout", ["channels", pytest.param("length", marks=pytest.mark.slow)])
def test_a_prepared_scan_serves_the_next_call_of_its_kind(layout: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(file: str, entry: str, defines: Mapping[str, object], device: torch.device) -> EmulatedKernel:
        return EmulatedKernel(folder, file, entry, defines)

    monkeypatch.setattr(nvrtc, "kernel", kernel)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    for module in (selective_scan_launch, selective_scan_rows_launch):
        monkeypatch.setattr(module, "processors", lambda device: 2)

    def call(seed: int) -> tuple[list[torch.Tensor], torch.Tensor]:
        torch.manual_seed(seed)

        def rows(width: int) -> torch.Tensor:
            return torch.randn(2, 70, width).mT if layout == "channels" else torch.randn(2, width, 70)

        tensors = [rows(24), rows(24), -torch.rand(24, 16), rows(16), rows(16), torch.randn(24), rows(24), torch.rand(24)]
        return [t.requires_grad_() for t in tensors], rows(24)

    prepared = selective_scan._prepare(*call(0)[0], True, True, True)
    assert type(prepared).__name__ == ("PreparedChannels" if layout == "channels" else "PreparedScan")
    tensors, dout = call(1)
    out, last = prepared(*tensors, True, True)  # type: ignore[misc]
    exact = [t.detach().double().requires_grad_() for t in tensors]
    want, want_last = selective_scan_fn(*exact, delta_softplus=True, return_last_state=True)
    got = [out, last, *torch.autograd.grad(out, tensors, dout)]
    for result, expected in zip(got, [want, want_last, *torch.autograd.grad(want, exact, dout.double())]):
        assert result.shape == expected.shape and (result.double() - expected).norm() <= 4e-6 * expected.norm()

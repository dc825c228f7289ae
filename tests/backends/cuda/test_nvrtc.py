"""What happens where NVRTC is missing, or will not compile: the Triton kernels take over, and it is said once."""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from anymamba import errors
from anymamba.backends.cuda import nvrtc, nvrtc_program, selective_scan_launch
from anymamba.backends.triton import selective_scan

DEVICE = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(errors, "_said", set())
    monkeypatch.setattr(nvrtc, "_given_up", {})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.version, "hip", None)
    nvrtc.usable.cache_clear()
    yield
    nvrtc.usable.cache_clear()


def test_a_missing_library_is_said_once_with_every_name_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *_: object) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    nvrtc.library.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.warns(errors.AnymambaWarning, match="NVRTC cannot be used.*nvrtc.*cannot open"):
        ok, why = nvrtc.usable(DEVICE)
    assert not ok and "nvrtc" in why
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nvrtc.usable(DEVICE) == (False, why)


class FakeLibrary:
    """An NVRTC that knows sm_90 and refuses every program."""

    _name = "libnvrtc.so"

    def nvrtcGetNumSupportedArchs(self, count: object) -> int:
        count._obj.value = 1  # type: ignore[attr-defined]
        return 0

    def nvrtcGetSupportedArchs(self, known: object) -> int:
        known[0] = 90  # type: ignore[index]
        return 0

    def nvrtcCreateProgram(self, *_: object) -> int:
        return 0

    def nvrtcCompileProgram(self, program: object, count: int, options: object) -> int:
        self.options = [options[i] for i in range(count)]  # type: ignore[index]
        return 6

    def nvrtcGetProgramLogSize(self, program: object, size: object) -> int:
        size._obj.value = 40  # type: ignore[attr-defined]
        return 0

    def nvrtcGetProgramLog(self, program: object, log: ctypes.Array) -> int:
        log.value = b"kernel.cu(1): error: no such thing"
        return 0

    def nvrtcDestroyProgram(self, *_: object) -> int:
        return 0


@pytest.mark.parametrize("capability,target", [((9, 0), b"sm_90"), ((12, 0), b"compute_90")])
def test_the_compilers_words_reach_the_error(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], target: bytes
) -> None:
    fake = FakeLibrary()
    monkeypatch.setattr(nvrtc, "library", lambda: fake)
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(nvrtc.NotCompiled, match="no such thing"):
        nvrtc.compile_source("nonsense", capability)
    assert fake.options[1] == b"--gpu-architecture=" + target


_ENDS = {
    "crashed": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "NVRTC crashed while it compiled .-11"),
    "refused": ("import sys; sys.exit('error: no such thing')", "no such thing"),
    "hung": ("import time; time.sleep(60)", "did not end within 0.5 s"),
    "not loaded there": ("import sys; sys.exit(2)", "no such thing"),
}
"""What the other process does -> what is said. The last is then compiled in this one."""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("how", list(_ENDS))
def test_a_compiler_that_fails_takes_nobody_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str) -> None:
    script, words = _ENDS[how]
    (tmp_path / "program.py").write_text(script)
    monkeypatch.setattr(nvrtc, "library", FakeLibrary)
    monkeypatch.setattr(nvrtc, "_PATIENCE", 0.5)
    monkeypatch.setattr(nvrtc_program, "__file__", str(tmp_path / "program.py"))
    with pytest.raises(nvrtc.NotCompiled, match=words):
        nvrtc.compile_source("nonsense", (9, 0))


def test_nvrtc_itself() -> None:
    """The package of the development set-up."""
    try:
        nvrtc.library.cache_clear()
        version = nvrtc_program.version(nvrtc.library())
    except OSError as error:
        pytest.skip(str(error))
    assert version >= (12, 0)
    code = nvrtc.compile_source('extern "C" __global__ void nothing() {}', (9, 0))
    assert code.startswith(b"\x7fELF")
    assert b"compute_90" not in code and b".target sm_" in nvrtc.compile_source('extern "C" __global__ void nothing() {}', (13, 9))
    with pytest.raises(nvrtc.NotCompiled, match="kernel.cu.2.: error"):
        nvrtc.compile_source("\nnonsense", (9, 0))


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_refused_kernel_leaves_the_scan_to_triton(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise nvrtc.NotCompiled("error: no such thing")

    taken = []
    states = torch.zeros(1, 1, 16, 8)
    monkeypatch.setattr(selective_scan_launch, "suits", lambda *_: True)
    if where == "forward":
        monkeypatch.setattr(selective_scan_launch, "scan_forward", refuse)
    else:
        monkeypatch.setattr(selective_scan_launch, "scan_forward", lambda u, *_: (u.clone(), None, states))
    monkeypatch.setattr(selective_scan_launch, "scan_backward", refuse)
    monkeypatch.setattr(selective_scan, "scan_forward", lambda u, *_: (taken.append("forward") or u.clone(), None, states))

    def backward(dout: torch.Tensor, *tensors: object) -> tuple[object, ...]:
        taken.append("backward")
        every = tensors[10]
        assert every == (16 if where == "backward" else 32)  # as the forward kernel that ran kept its states
        return tuple(None if t is None else torch.zeros_like(t) for t in tensors[:8])  # type: ignore[call-overload]

    monkeypatch.setattr(selective_scan, "scan_backward", backward)
    u = torch.randn(1, 8, 5, requires_grad=True)
    A = torch.zeros(8, 16)
    with pytest.warns(errors.AnymambaWarning, match="no such thing.*slower Triton kernels"):
        selective_scan.selective_scan_fn(u, u, A, torch.randn(1, 16, 5), torch.randn(1, 16, 5)).sum().backward()
    assert taken == (["forward", "backward"] if where == "forward" else ["backward"])
    assert not nvrtc.usable(torch.device("cpu"))[0]


def test_a_source_holds_every_file_that_it_includes_once() -> None:
    text = nvrtc.source("scan_backward.cu", {"N": 16})
    assert text.startswith("#define N 16\n") and "#include" not in text
    assert text.count("constexpr float LOG2E =") == 1 and text.count("constexpr int CW =") == 1

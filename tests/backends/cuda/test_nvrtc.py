"""What is said where NVRTC is missing, or will not compile."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from anymamba.backends import cuda
from anymamba.backends.cuda import nvrtc, nvrtc_program

DEVICE = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.version, "hip", None)
    nvrtc.usable.cache_clear()
    yield
    nvrtc.usable.cache_clear()


def test_a_missing_library_is_a_reason_with_every_name_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *_: object) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    nvrtc.library.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", absent)
    ok, why = nvrtc.usable(DEVICE)
    assert not ok and re.match("NVRTC cannot be used.*nvrtc.*cannot open", why)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert cuda.available() == (False, why)


def test_cards_that_are_too_old_and_others_than_nvidias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    ok, why = nvrtc.usable(DEVICE)
    assert not ok and "7.5" in why
    monkeypatch.setattr(torch.version, "hip", "6.3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not cuda.available()[0] and "NVIDIA" in cuda.available()[1]


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


def test_a_source_holds_every_file_that_it_includes_once() -> None:
    text = nvrtc.source("scan_backward.cu", {"N": 16})
    assert text.startswith("#define N 16\n") and "#include" not in text
    assert text.count("constexpr float LOG2E =") == 1 and text.count("constexpr int CW =") == 1

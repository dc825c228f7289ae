"""Compiled kernels on disk: used again, made again when damaged or of other sources, done without when the folder is read-only."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.backends.cpu.test_cpu_scan import run, scan_inputs

from anymamba import cachefolder, errors
from anymamba.backends import cpu
from anymamba.backends.cpu.jit import compile, target
from anymamba.backends.cpu.jit.compile import Program
from anymamba.backends.cpu.jit.emit import Kernel
from anymamba.backends.cpu.scan import selective_scan


def double(k: Kernel, dtype: str, factor: float = 2.0) -> None:
    x, n = k.pointer("x", dtype), k.size("n")
    with k.loop(0, n, k.width) as i:
        x.store(i, x.load(i, n - i) * factor, n - i)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANYMAMBA_CACHE_DIR", str(tmp_path))
    return tmp_path / "cpu"


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that were compiled, not read."""
    names: list[str] = []
    original = compile.compile_kernel

    def watched(build: Any, options: Any, target: Any) -> Any:  # type: ignore[no-untyped-def]
        names.append(build.__name__)
        return original(build, options, target)

    monkeypatch.setattr(compile, "compile_kernel", watched)
    return names


def doubled(program: Program) -> bool:
    x = torch.arange(37.0)
    program.run(1, x=x, n=37)
    return torch.equal(x, 2 * torch.arange(37.0))


def test_second_program_reads_the_first_ones_code(folder: Path, emitted: list[str]) -> None:
    assert doubled(Program("double", double, "float32"))
    assert doubled(Program("double", double, "float32"))
    assert emitted == ["double"]
    assert len(list(folder.iterdir())) == 1


def test_options_and_width_have_code_of_their_own(folder: Path, emitted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert doubled(Program("double", double, "float32"))
    assert not doubled(Program("double", double, "float32", 3.0))
    assert len(emitted) == 2
    if target.host().width > 4:
        monkeypatch.setenv(target.WIDTH_VARIABLE, "4")
        assert doubled(Program("double", double, "float32"))
        assert len(emitted) == 3


def test_code_belongs_to_the_sources_of_every_kernel() -> None:
    modules = [module for name, module in sys.modules.items() if name.startswith("anymamba.backends.cpu")]
    assert {Path(str(module.__file__)) for module in (*modules, selective_scan, compile)} <= set(compile.source_files())


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damaged_code_is_compiled_again(damage: str, folder: Path, emitted: list[str]) -> None:
    assert doubled(Program("double", double, "float32"))
    (file,) = folder.iterdir()
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes({"flip": bytes(content), "cut": file.read_bytes()[:-9], "empty": b""}[damage])
    assert doubled(Program("double", double, "float32"))
    assert len(emitted) == 2


def test_changed_sources_are_compiled_again(folder: Path, emitted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert doubled(Program("double", double, "float32"))
    monkeypatch.setattr(compile, "_sources", lambda: "other")
    assert doubled(Program("double", double, "float32"))
    assert len(emitted) == 2


def test_unwritable_folder_only_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    monkeypatch.setenv("ANYMAMBA_CACHE_DIR", str(file))
    errors._said.discard("cache-folder")
    with pytest.warns(errors.AnymambaWarning, match="cannot be written"):
        assert doubled(Program("double", double, "float32"))
    assert cachefolder.read_bytes("cpu/x") is None


def test_width_that_the_processor_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(target.WIDTH_VARIABLE, "32")
    with pytest.raises(ValueError, match="ANYMAMBA_CPU_WIDTH=32"):
        target.host()


def test_float16_without_conversion_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(target.WIDTH_VARIABLE, "4")
    if not target.host().f16:
        with pytest.raises(NotImplementedError, match="float16"):
            Program("double", double, "float16").run(1, x=torch.zeros(4, dtype=torch.float16), n=4)


def test_broken_llvmlite_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "anymamba.backends.cpu.jit.target", None)
    cpu.available.cache_clear()
    try:
        ok, reason = cpu.available()
    finally:
        cpu.available.cache_clear()
    assert not ok and "llvmlite" in reason and "anymamba.backends.cpu.jit.target" in reason


def test_first_use_of_the_scan_takes_seconds_at_most(folder: Path) -> None:
    """Forward with checkpoints, backward and step of one model, compiled from nothing, in processor time."""
    selective_scan._forward_program.cache_clear()
    selective_scan._backward_program.cache_clear()
    inputs = scan_inputs(1, 64, 8, 16, 1)
    start = time.process_time()
    run(selective_scan.selective_scan_fn, inputs, torch.float32, delta_softplus=True)
    assert time.process_time() - start < 3.0
    assert len(list(folder.iterdir())) == 2

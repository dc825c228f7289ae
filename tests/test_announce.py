"""What takes long before the first token is said once, and done once: the next process has the kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from anymamba import announce
from tests.cli import chat_model


def test_each_text_is_told_once_and_to_nobody_without_a_listener() -> None:
    told: list[str] = []
    announce.once("lost")
    announce.listen(told.append)
    try:
        for text in ("compiling", "compiling", "reading"):
            announce.once(text)
    finally:
        announce.listen(None)
    announce.once("lost")
    assert told == ["compiling", "reading"]


def test_a_cold_start_says_what_it_compiles_and_a_second_one_compiles_nothing(tmp_path: Path) -> None:
    model = chat_model.save(tmp_path / "model")
    environment = {**os.environ, "ANYMAMBA_CACHE_DIR": str(tmp_path / "cache"), "ANYMAMBA_LANG": "en"}
    command = [sys.executable, "-m", "anymamba", "generate", model, "-p", "x", "-m", "3"]

    def told() -> str:
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, check=True).stderr

    assert told().count("compiling kernels for this processor") == 1
    kernels = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.bin")}
    assert kernels and "compiling" not in told()
    assert kernels == {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.bin")}


def test_triton_announces_what_it_compiles_and_not_what_its_cache_has(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    if not hasattr(getattr(triton, "knobs", None), "compilation") or not hasattr(triton.knobs.compilation, "listener"):
        pytest.skip("this Triton does not tell")
    from anymamba.backends.triton.announcing import announce_compilation

    told: list[str] = []
    monkeypatch.setattr(triton.knobs.compilation, "listener", None)
    announce_compilation()
    announce.listen(told.append)
    try:
        for hit in (True, False, False):
            triton.knobs.compilation.listener(src=None, metadata={}, metadata_group={}, times=None, cache_hit=hit)
    finally:
        announce.listen(None)
    assert len(told) == 1 and "Triton" in told[0]

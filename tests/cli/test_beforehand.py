"""Triton is prepared beside the loading of a model whose prompt will be read by its kernels, and only then."""

from __future__ import annotations

import argparse
import sys
import types
from pathlib import Path

import pytest

from anymamba.cli import beforehand, generate


def test_the_key_of_its_cache_is_computed_and_no_failure_ends_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    asked: list[str] = []

    def key() -> str:
        asked.append("key")
        raise OSError("no library")

    monkeypatch.setitem(sys.modules, "triton.runtime.cache", types.SimpleNamespace(triton_key=key))
    beforehand.prepare_triton().join(10)
    assert asked == ["key"]


def test_short_prompts_of_small_models_need_no_pass(tmp_path: Path) -> None:
    def asked(prompt: str, **others: object) -> bool:
        return generate._passes(argparse.Namespace(model=str(tmp_path), prompt=prompt, prompts=None, resync=0, **others))

    with open(tmp_path / "model.safetensors", "wb") as file:
        file.truncate(260 * 10**6)
    assert not asked("Hello world") and not asked("word " * 800)
    assert asked("word " * 4000) and asked("-")
    assert generate._passes(argparse.Namespace(model="x", prompt="", prompts="file", resync=0))
    assert generate._passes(argparse.Namespace(model="x", prompt="a", prompts=None, resync=512))
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.truncate(6 * 10**9)  # holes: no byte of it is on the disk
    assert asked("word " * 200) and not asked("Hello world")

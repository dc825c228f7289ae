"""PEFT's own script on transformers' models: every adapter acts, has its gradient, and merges, on out_proj and dt_proj too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(families: str, *before: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *before, "-m", "tests.dropin.peft_script", families]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("families", ["mamba,mamba2", pytest.param("falcon_mamba,nemotron_h,bamba,falcon_h1", marks=pytest.mark.slow)])
def test_every_adapter_acts(families: str) -> None:
    pytest.importorskip("transformers", minversion="5.15")
    pytest.importorskip("peft")
    done = run(families, "-m", "anymamba", "run")
    assert done.returncode == 0, done.stderr[-3000:]
    for family, found in json.loads(done.stdout.splitlines()[-1]).items():
        assert found["without_gradient"] == [], family
        assert {"in_proj", "out_proj"} <= set(found["adapters"]), family
        assert max(found[name] for name in ("logits", "merged", "unmerged")) < 1e-5, (family, found)
        assert found["slope"] < 1e-2 and found["same_text"], (family, found)


@pytest.mark.slow
def test_peft_alone_refuses_them() -> None:
    """When this fails, PEFT has changed, and ``dropin/peft_layers.py`` may not be needed any more."""
    pytest.importorskip("peft")
    assert "out_proj" in run("mamba").stderr

"""Adapters, hooks, weight norm, frozen parts and padding under the drop-in give the loss, logits and every gradient of the slow path."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dropin.attachments import CLASSES
from tests.dropin.tiny_transformers import CONFIGS

ROOT = Path(__file__).resolve().parents[2]
FLOAT32, BFLOAT16 = 1e-5, 0.02
"""Largest error allowed; in bfloat16, beyond twice the slow path's own distance from float32."""


def check(families: str, extent: str) -> None:
    pytest.importorskip("transformers", minversion="5.15")
    done = subprocess.run(
        [sys.executable, "-m", "tests.dropin.attachments", families, extent], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) > 10
    wrong = {case: error for case, error in found.items() if not error[0] <= (BFLOAT16 if "bf16" in case else FLOAT32)}
    assert not wrong


def test_the_fused_functions() -> None:
    check("mamba,mamba2,Mamba,Mamba2", "quick")


@pytest.mark.slow
@pytest.mark.parametrize("family", [*CONFIGS, *CLASSES])
def test_every_pair_of_axes(family: str) -> None:
    check(family, "pairs")


@pytest.mark.grid
@pytest.mark.parametrize("family", [*CONFIGS, *CLASSES])
def test_everything(family: str) -> None:
    check(family, "all")

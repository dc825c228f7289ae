"""transformers with the drop-in gives what it gives without, and really calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.dropin.tiny_transformers import CONFIGS

ROOT = Path(__file__).resolve().parents[2]
SHARED = {"causal_conv1d_fn", "causal_conv1d_update", "selective_state_update"}
EXPECTED = {
    "mamba": SHARED | {"selective_scan_fn", "mamba_inner_fn"},
    "falcon_mamba": SHARED | {"selective_scan_fn"},
    "jamba": SHARED | {"selective_scan_fn"},
    "mamba2": SHARED | {"mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined"},
    **{name: SHARED | {"mamba_chunk_scan_combined"} for name in ("bamba", "zamba2", "nemotron_h", "falcon_h1", "granitemoehybrid")},
}
"""Which functions of the packages each family must have called. FalconMamba's mamba_inner_fn and the fused op of a model with groups
or a chunk in the cache are left to the model's own code by its own conditions."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    pytest.importorskip("transformers", minversion="5.15")
    folder = tmp_path_factory.mktemp("transformers")
    found = []
    for mode in ("without", "with"):
        file = folder / f"{mode}.pt"
        command = [sys.executable, "-m", "tests.dropin.tiny_transformers", mode, str(file)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("falling back to its reference" in done.stderr) == (mode == "without")
        found.append(torch.load(file, weights_only=True))
    return found[0], found[1]


def assert_near(actual: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    """Within float32's rounding of sums: relative to each value and to the largest one."""
    atol = 2e-5 * max(expected.abs().max().item(), 1e-3)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=atol, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("family", CONFIGS)
def test_nothing_changes_but_who_computes(family: str, both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    plain, ours = (side[family]["results"] for side in both)
    assert plain.keys() == ours.keys()
    for name, expected in plain.items():
        if name == "gradients":
            assert expected.keys() == ours[name].keys() and expected
            for parameter, gradient in expected.items():
                assert_near(ours[name][parameter], gradient, parameter)
        elif expected.is_floating_point():
            assert_near(ours[name], expected, name)
        else:
            assert torch.equal(expected, ours[name]), name


@pytest.mark.parametrize("family", CONFIGS)
def test_every_expected_function_was_called_and_served(family: str, both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    ours = both[1][family]
    called = {name.rpartition(".")[2] for name, count in ours["calls"].items() if count}
    assert called >= EXPECTED[family]
    composed = {"mamba_inner_fn", "mamba_split_conv1d_scan_combined"}
    for op in EXPECTED[family] - composed:
        assert sum(ours["served"][op].values()) > 0
        assert set(ours["served"][op]) == {"cpu"}, "the CPU kernels serve what transformers calls"
    assert ours["fell_back"] == []

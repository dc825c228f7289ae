"""torch.jit.trace, which FLOP counters use, under the drop-in: the graph has nodes, not the results of one call."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anymamba import ops
from tests.dropin.tiny_transformers import CONFIGS

ROOT = Path(__file__).resolve().parents[2]


def check(*families: str) -> None:
    pytest.importorskip("transformers", minversion="5.15")
    done = subprocess.run([sys.executable, "-m", "tests.dropin.traced", *families], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found and not {name: error for name, error in found.items() if not error <= 1e-5}


def test_mamba_and_mamba2() -> None:
    check("mamba", "mamba2")


@pytest.mark.slow
def test_all_families() -> None:
    check(*CONFIGS)


def test_a_traced_op_takes_other_values_and_lengths() -> None:
    weight = torch.randn(6, 4)

    def convolve(x: torch.Tensor) -> torch.Tensor:
        y = ops.causal_conv1d_fn(x, weight, activation="silu")
        assert isinstance(y, torch.Tensor)
        return y

    traced = torch.jit.trace(convolve, (torch.randn(2, 6, 5),))
    longer = torch.randn(3, 6, 9)
    torch.testing.assert_close(traced(longer), convolve(longer))
    assert "anymamba::causal_conv1d_fn" in str(traced.graph)


def test_dropout_inside_a_trace() -> None:
    x = torch.randn(4, 8)
    traced = torch.jit.trace(lambda x: ops.layer_norm_fn(x, torch.ones(8), None, dropout_p=0.5), (x,), check_trace=False)
    assert not torch.equal(traced(x), traced(x))

"""The registry itself, and the pieces that a run puts together."""

from __future__ import annotations

import fnmatch
from typing import Any

import pytest
import torch
from torch import nn

from anymamba.backends.opspec import SPECS
from anymamba.bench import floor, peak, peers
from anymamba.bench.cases import op_cases, registry
from anymamba.bench.cases.case import Setting
from anymamba.bench.timing import Effort, measure

CPU = torch.device("cpu")


def test_names_are_unique_and_targets_name_a_peer() -> None:
    names = [(case.device_type, case.name) for case in registry.every_case()]
    assert len(names) == len(set(names))
    assert {case.device_type for case in registry.every_case()} == {"cpu", "cuda"}
    assert all(target.at_most > 0 for case in registry.every_case() for target in case.targets)


def test_the_issues_figures_are_cases() -> None:
    wanted = {
        "cpu": ("selective_scan_fn/B1-L2048-D1536-N16-fp32/*", "mamba-130m/*/forward+backward", "mamba2-130m/*/forward+backward",
                "mamba-layer/L64k*", "mamba-130m/*/memory", "mamba-130m/*/decode"),
        "cuda": ("selective_scan_fn/B8-L2048-D5120-N16-bf16/backward", "mamba_chunk_scan_combined/B1-L8192-*/forward",
                 "causal_conv1d_fn/*channels*", "mamba-2.8b/*/decode", "mamba2-130m/*/forward+backward"),
    }  # fmt: skip
    for device_type, patterns in wanted.items():
        names = [case.name for case in registry.every_case() if case.device_type == device_type]
        for pattern in patterns:
            assert fnmatch.filter(names, pattern), pattern


@pytest.mark.parametrize("op", ["selective_scan_fn", "mamba_chunk_scan_combined", "causal_conv1d_fn", "selective_state_update"])
def test_peers_compute_the_same(op: str) -> None:
    pytest.importorskip("transformers", minversion="5.15")
    sizes: dict[str, dict[str, Any]] = {
        "selective_scan_fn": {"batch": 1, "length": 33, "dim": 24, "d_state": 4},
        "mamba_chunk_scan_combined": {
            "batch": 1, "length": 33, "headdim": 8, "ngroups": 1, "without": ("initial_states",), "return_final_states": False,
        },
        "causal_conv1d_fn": {"batch": 1, "length": 33, "dim": 24},
        "selective_state_update": {"batch": 1, "headdim": 8, "ngroups": 1},
    }  # fmt: skip
    spec = SPECS[op]
    ours = op_cases.contest(spec, sizes[op], torch.float32, "forward", Setting(CPU, "torch"))
    given = op_cases.tensors_of(spec, sizes[op], CPU, torch.float32, 0)
    found = peers.of_op(op, CPU)
    assert found
    want = ours.ours.run()
    for name, peer in found.items():
        if isinstance(peer, str):
            pytest.skip(f"{name}: {peer}")
        torch.testing.assert_close(peer(**given), want, rtol=1e-4, atol=1e-4)


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "library_version", lambda name: None)
    found = peers.of_op("selective_scan_fn", CPU)
    assert set(found) == {peers.TRANSFORMERS, peers.MAMBAPY}
    assert all(isinstance(reason, str) and reason for reason in found.values())


def test_the_floor_multiplies_every_weight() -> None:
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 4))
    seen: list[tuple[int, ...]] = []
    multiply = torch.mm

    def counted(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        seen.append((*a.shape, b.shape[1]))
        return multiply(a, b, out=out)

    torch.mm = counted  # type: ignore[assignment]
    try:
        floor.matrix_products(model, 5, torch.float32, backward=True)()
    finally:
        torch.mm = multiply
    assert seen == [(5, 8, 16), (5, 16, 4), (5, 4, 16), (4, 5, 16), (5, 16, 8), (16, 5, 8)]


def test_contenders_take_turns_and_a_slow_one_runs_once() -> None:
    calls: list[str] = []
    effort = Effort(seconds=0.0, least=3, most=5, patience=0.05)

    def slow() -> None:
        calls.append("slow")
        torch.randn(10).sum()
        import time

        time.sleep(0.06)

    spreads = measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b"), "slow": slow}, CPU, effort)
    assert calls == ["a", "b", "slow"] + ["a", "b"] * 3
    assert spreads["slow"].runs == 1 and spreads["slow"].median >= 0.06
    assert spreads["a"].runs == 3


@pytest.mark.slow
def test_peak_memory_grows_with_the_model() -> None:
    base = {"who": "anymamba", "family": "mamba", "size": "tiny", "length": 8, "dtype": "float32", "device": "cpu", "backend": "torch"}
    small, large = (peak.measure_apart({**base, "layers": layers}) for layers in (1, 60))
    # 59 more layers of this width are 25.8 million parameters, weights and gradients in float32 8 bytes each; half of that is
    # beyond what importing libraries may add to the peak of the small one
    assert large - small > 0.5 * 25.8e6 * 8

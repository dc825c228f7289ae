"""The official packages as a backend, shown with stand-ins for them: what is passed on, what is refused and in whose words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from anymamba.backends import official
from anymamba.backends.call import Call
from anymamba.backends.official import causal_conv1d, selective_scan, selective_state_update, ssd


def call(op: str, *features: str, grad: bool = False, **sizes: int) -> Call:
    return Call(op, torch.device("cuda"), torch.float32, grad, frozenset(features), tuple(sorted(sizes.items())))


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    names = (
        "mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", "mamba_ssm.ops.selective_scan_interface",
        "mamba_ssm.ops.triton.selective_state_update", "mamba_ssm.ops.triton.ssd_combined", "selective_scan_cuda", "causal_conv1d",
    )  # fmt: skip
    modules = {name: ModuleType(name) for name in names}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield modules


def test_without_a_gpu_it_is_not_available() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    ok, reason = official.available()
    assert not ok and "GPU" in reason


def test_a_missing_extension_is_named_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", None)
    ok, reason = selective_scan.supports(call("selective_scan_fn", d_state=16))
    assert not ok and "selective_scan_cuda" in reason and "ModuleNotFoundError" in reason


def test_the_drop_in_is_not_taken_for_the_real_package(packages: dict[str, ModuleType]) -> None:
    packages["causal_conv1d"].__anymamba__ = True  # type: ignore[attr-defined]
    packages["causal_conv1d"].causal_conv1d_fn = print  # type: ignore[attr-defined]
    ok, reason = causal_conv1d.supports(call("causal_conv1d_fn", width=4))
    assert not ok and "drop-in" in reason


def test_what_upstream_lacks_is_refused_by_name(packages: dict[str, ModuleType]) -> None:
    packages["causal_conv1d"].causal_conv1d_fn = print  # type: ignore[attr-defined]
    assert causal_conv1d.supports(call("causal_conv1d_fn", width=4))[0]
    assert "width 5" in causal_conv1d.supports(call("causal_conv1d_fn", width=5))[1]
    assert "seq_idx" in causal_conv1d.supports(call("causal_conv1d_fn", "seq_idx", "initial_states", width=4))[1]
    packages["mamba_ssm.ops.triton.ssd_combined"].mamba_chunk_scan_combined = print  # type: ignore[attr-defined]
    assert ssd.supports(call("mamba_chunk_scan_combined", "seq_idx"))[0]
    assert not ssd.supports(call("mamba_chunk_scan_combined", "seq_idx", "initial_states"))[0]


def test_missing_D_and_dt_bias_reach_upstream_as_zeros(packages: dict[str, ModuleType]) -> None:
    seen: list[tuple[torch.Tensor | None, ...]] = []
    packages["mamba_ssm.ops.triton.selective_state_update"].selective_state_update = (  # type: ignore[attr-defined]
        lambda *arguments: seen.append(arguments)
    )
    x = torch.randn(2, 3)
    selective_state_update.selective_state_update(
        torch.zeros(2, 3, 4), x, x, torch.zeros(3, 4), torch.zeros(2, 4), torch.zeros(2, 4)
    )
    D, dt_bias = seen[0][6], seen[0][8]
    assert D is not None and D.shape == (3,) and not D.any()
    assert dt_bias is not None and dt_bias.shape == (3,) and not dt_bias.any()

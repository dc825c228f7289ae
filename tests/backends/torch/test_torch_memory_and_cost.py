"""What the harness of tests/ops cannot see: no tensor with a d_state axis is longer than a chunk, and work grows with the length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from anymamba.backends.torch import selective_scan, ssd

D_INNER, D_STATE, HEADS, HEADDIM = 64, 16, 8, 16


class Elements(TorchDispatchMode):
    """The largest tensor, and the sum of the elements of all tensors, that operators return."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and "view" not in func.tags:
                storage = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.largest = max(self.largest, storage)
                self.total += tensor.numel()
        return out


def run_scan(length: int) -> Elements:
    def rows(width: int) -> Tensor:
        return torch.randn(1, length, width).transpose(1, 2).requires_grad_()

    inputs = [rows(D_INNER), rows(D_INNER), -torch.rand(D_INNER, D_STATE), rows(D_STATE), rows(D_STATE)]
    inputs[2].requires_grad_()
    return count(lambda: selective_scan.selective_scan_fn(*inputs, z=rows(D_INNER), delta_softplus=True))


def run_ssd(length: int) -> Elements:
    def values(*shape: int) -> Tensor:
        return torch.randn(1, length, *shape).requires_grad_()

    A = (-torch.rand(HEADS)).requires_grad_()
    inputs = [values(HEADS, HEADDIM), values(HEADS), A, values(1, D_STATE), values(1, D_STATE)]
    return count(lambda: ssd.mamba_chunk_scan_combined(*inputs, chunk_size=64, dt_softplus=True))


def count(forward: Callable[[], Any]) -> Elements:
    with Elements() as elements:
        forward().sum().backward()
    return elements


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a length which is quick to test has many chunks."""
    monkeypatch.setattr(selective_scan, "_chunk_length", lambda *_: 16)
    blocks = ssd._blocks
    monkeypatch.setattr(ssd, "_blocks", lambda length, sequences, device: blocks(length, 2**20, device))


def test_scan_never_holds_all_states() -> None:
    length = 1024
    states_of_chunk = 17 * D_INNER * D_STATE
    # every activation is (length, D_INNER); one state a chunk is kept for the backward pass
    assert run_scan(length).largest <= max(states_of_chunk, length * D_INNER)


def test_ssd_never_holds_all_decays() -> None:
    length, chunk = 1024, 64
    decays = length // chunk * HEADS * chunk * chunk
    assert run_ssd(length).largest <= max(HEADS * chunk * chunk, length * HEADS * HEADDIM) < decays


@pytest.mark.parametrize("run", [run_scan, run_ssd])
def test_work_is_linear_in_length(run: Callable[[int], Elements]) -> None:
    short, long = run(256).total, run(1024).total
    assert long <= 4.1 * short

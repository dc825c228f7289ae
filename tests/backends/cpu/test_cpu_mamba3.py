"""Of Mamba-3 on the SSD kernels, what the shared cases of tests/ops cannot see: decays apart from weights at every vector width."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.backends.cpu.kernel_checks import WIDTHS, assert_close, dirty_scratch, lanes, run

from anymamba.backends.cpu.mamba3 import mamba3_siso as scan
from anymamba.reference.mamba3 import mamba3_siso as exact


def inputs(length: int, nheads: int = 4, headdim: int = 20, groups: int = 2, d_state: int = 18, batch: int = 2) -> dict[str, Any]:
    return {
        "Q": torch.randn(batch, length, groups, d_state),
        "K": torch.randn(batch, length, groups, d_state),
        "V": torch.randn(batch, length, nheads, headdim),
        "ADT": -torch.rand(batch, nheads, length),
        "DT": torch.rand(batch, nheads, length),
        "Trap": torch.randn(batch, nheads, length),
        "Q_bias": torch.randn(nheads, d_state),
        "K_bias": torch.randn(nheads, d_state),
        "Angles": torch.randn(batch, length, nheads, 5),
        "D": torch.randn(nheads),
        "Z": torch.randn(batch, length, nheads, headdim),
        "angle_state": torch.randn(batch, nheads, 5),
        "ssm_state": torch.randn(batch, nheads, headdim, d_state),
        "k_state": torch.randn(batch, nheads, d_state),
        "v_state": torch.randn(batch, nheads, headdim),
    }


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("length", [1, 33, 530])
def test_every_vector_width(width: int, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(length) if length < 100 else inputs(length, nheads=2, headdim=5, groups=1, d_state=10, batch=1)
    want = run(exact, given, torch.float64, return_final_states=True)
    with lanes(width, monkeypatch):
        dirty_scratch()
        got = run(scan, given, torch.float32, return_final_states=True)
        dirty_scratch()
        again = run(scan, given, torch.float32, return_final_states=True)
    assert_close(got, want, 2e-5)
    assert all(torch.equal(a, b) for a, b in zip(got, again)), "two runs differ"


def test_what_another_sequence_did_gets_no_gradient() -> None:
    given = {name: value for name, value in inputs(40, batch=1).items() if not name.endswith("_state")}
    leaves = {name: given[name].clone().requires_grad_() for name in ("V", "K", "ADT", "DT", "Trap", "Angles")}
    out = scan(**{**given, **leaves}, cu_seqlens=torch.tensor([0, 13, 40]))
    assert isinstance(out, torch.Tensor)
    gradients = torch.autograd.grad(out[:, 13:].square().sum(), list(leaves.values()))
    for name, gradient in zip(leaves, gradients):
        hidden = gradient[:, :, :13] if name in ("ADT", "DT", "Trap") else gradient[:, :13]
        if name in ("DT", "Angles"):  # the angles of both sequences are differences of one running sum
            assert hidden.abs().max() <= 1e-5 * gradient.abs().max()
        else:
            assert not hidden.any(), name


def test_a_decay_of_none_or_all() -> None:
    """ADT of zero and of -300 side by side: the weights are not derived from the decays, so nothing is divided by them."""
    given = inputs(70)
    given["ADT"] = torch.where(torch.rand(2, 4, 70) < 0.5, 0.0, -300.0)
    want = run(exact, given, torch.float64, return_final_states=True)
    assert_close(run(scan, given, torch.float32, return_final_states=True), want, 2e-5)

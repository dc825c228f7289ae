"""Of the SSD kernels, what the shared cases of tests/ops cannot see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.backends.cpu.kernel_checks import WIDTHS, Copies, assert_close, dirty_scratch, lanes, run
from torch import Tensor

from anymamba.backends.cpu.ssd.ssd import mamba_chunk_scan_combined as scan
from anymamba.reference.ssd import mamba_chunk_scan_combined as exact


def inputs(length: int, heads: int = 4, headdim: int = 20, groups: int = 2, d_state: int = 17, batch: int = 2) -> dict[str, Any]:
    """x, z, B and C are views into one projection, as a mixer hands them over."""
    dim, shared = heads * headdim, groups * d_state
    wide = torch.randn(batch, length, 2 * dim + 2 * shared)
    x, z, B, C = wide.split([dim, dim, shared, shared], dim=2)
    return {
        "x": x.unflatten(2, (heads, headdim)),
        "dt": torch.rand(batch, length, heads),
        "A": -torch.rand(heads),
        "B": B.unflatten(2, (groups, d_state)),
        "C": C.unflatten(2, (groups, d_state)),
        "D": torch.randn(heads, headdim),
        "z": z.unflatten(2, (heads, headdim)),
        "initial_states": torch.randn(batch, heads, headdim, d_state),
    }


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("length", [1, 33, 530])
def test_every_vector_width(width: int, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """530 tokens are more than a segment of chunks, whose states the backward pass recomputes."""
    if length > 100:
        given = inputs(length, heads=2, headdim=5, groups=1, d_state=3, batch=1)
    else:
        given = inputs(length)
    want = run(exact, given, torch.float64, chunk_size=64, return_final_states=True)
    with lanes(width, monkeypatch):
        dirty_scratch()
        got = run(scan, given, torch.float32, chunk_size=64, return_final_states=True)
        dirty_scratch()
        again = run(scan, given, torch.float32, chunk_size=64, return_final_states=True)
    assert_close(got, want, 4e-6)
    assert all(torch.equal(a, b) for a, b in zip(got, again)), "two runs differ"


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    given = inputs(70, heads=6)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run(scan, given, torch.float32, chunk_size=64))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_chunk_size_changes_no_bit() -> None:
    given = inputs(70)
    assert torch.equal(scan(**given, chunk_size=1), scan(**given, chunk_size=256))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_views_of_the_projection_are_not_copied(dtype: torch.dtype) -> None:
    given = {name: value.to(dtype) if name in "xBCz" else value for name, value in inputs(64, heads=8, headdim=64).items()}
    wide = torch.randn(2, 64, 4 * 8 * 64).to(dtype)
    given["x"] = wide[..., 512:1024].unflatten(2, (8, 64))
    given["z"] = wide[..., 1024:1536].unflatten(2, (8, 64))
    with Copies() as copies:
        scan(**given, chunk_size=64)
    assert copies.largest < given["x"].numel() // 4


def test_what_a_reset_hides_gets_no_gradient() -> None:
    """Exactly none: tokens of an earlier document, and the decay of a document's first token."""
    given = inputs(40, batch=1)
    seq_idx = (torch.arange(40) >= 13).int()[None]
    leaves = {name: given[name].clone().requires_grad_() for name in ("x", "dt", "B", "initial_states")}
    out = scan(**{**given, **leaves}, chunk_size=64, seq_idx=seq_idx)
    gradients = torch.autograd.grad(out[:, 13:].square().sum(), list(leaves.values()))
    for name, gradient in zip(leaves, gradients):
        hidden: Tensor = gradient if name == "initial_states" else gradient[:, :13]
        assert not hidden.any(), name


def test_a_long_strong_decay_stays_finite() -> None:
    """exp(dt A) underflows many times over a chunk; a ratio of cumulative products would be 0 / 0."""
    given = inputs(200, batch=1, heads=2, headdim=4, groups=1, d_state=3)
    given["A"], given["dt"] = torch.tensor([-60.0, -1e-4]), 5 * given["dt"]
    want = run(exact, given, torch.float64, chunk_size=64)
    assert_close(run(scan, given, torch.float32, chunk_size=64), want, 1e-5)

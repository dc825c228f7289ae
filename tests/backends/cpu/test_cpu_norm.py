"""Of the norms' kernels, what the shared cases of tests/ops cannot see."""

from __future__ import annotations

import pytest
import torch
from tests.backends.cpu.kernel_checks import WIDTHS, Copies, assert_close, dirty_scratch, lanes, run

from anymamba.backends.call import Call
from anymamba.backends.cpu.norm import norm, norm_gated
from anymamba.reference import norm as exact
from anymamba.reference import norm_gated as exact_gated


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("is_rms_norm", [False, True])
def test_every_vector_width(width: int, is_rms_norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """75 channels: more than four vectors of any width but 16, and a rest."""
    shape = 19, 75
    given = {"x": torch.randn(shape), "weight": torch.randn(75), "bias": torch.randn(75), "residual": torch.randn(shape)}
    gated = {"x": torch.randn(shape), "weight": torch.randn(75), "bias": torch.randn(75), "z": torch.randn(shape)}
    with lanes(width, monkeypatch):
        options = {"prenorm": True, "is_rms_norm": is_rms_norm}
        want = run(exact.layer_norm_fn, given, torch.float64, **options)
        assert_close(run(norm.layer_norm_fn, given, torch.float32, **options), want, 2e-6)
        for before in (False, True):
            options = {"norm_before_gate": before, "group_size": 25, "is_rms_norm": is_rms_norm}
            want = run(exact_gated.layernorm_fn, gated, torch.float64, **options)
            dirty_scratch()
            assert_close(run(norm_gated.layernorm_fn, gated, torch.float32, **options), want, 4e-6)


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    given = {"x": torch.randn(500, 96), "weight": torch.randn(96), "bias": None, "residual": torch.randn(500, 96)}
    gated = {"x": torch.randn(500, 96), "weight": torch.randn(96), "bias": None, "z": torch.randn(500, 96)}
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            plain = run(norm.rms_norm_fn, given, torch.float32, prenorm=True)
            results.append(plain + run(norm_gated.rmsnorm_fn, gated, torch.float32))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_a_view_of_the_projection_is_not_copied() -> None:
    x, z = torch.randn(1, 40, 96), torch.randn(1, 40, 300)[..., 3:99]
    with Copies() as copies:
        norm_gated.rmsnorm_fn(x, torch.ones(96), None, z)
    assert copies.largest == 0


@pytest.mark.parametrize("name", ["x1", "weight1", "rowscale", "dropout"])
def test_what_it_cannot_do_it_says(name: str) -> None:
    ok, reason = norm.supports(Call("rms_norm_fn", torch.device("cpu"), torch.float32, features=frozenset({name})))
    assert not ok and name in reason


def test_large_values_do_not_lose_the_variance() -> None:
    """Mean of squares minus square of the mean would leave nothing of it."""
    x = torch.randn(4, 64) + 3000.0
    got = norm.layer_norm_fn(x, torch.ones(64), None)
    assert isinstance(got, torch.Tensor)
    assert_close([got], [exact.layer_norm_fn(x.double(), torch.ones(64).double(), None)], 5e-4)

"""Of the convolution's kernels, what the shared cases of tests/ops cannot see."""

from __future__ import annotations

import pytest
import torch
from tests.backends.cpu.kernel_checks import WIDTHS, Copies, assert_close, dirty_scratch, lanes, run

from anymamba.backends.call import Call
from anymamba.backends.cpu.conv import causal_conv1d as cpu
from anymamba.reference import causal_conv1d as exact


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("taps", [1, 4])
def test_every_vector_width(width: int, taps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """37 channels and 21 tokens leave a rest in both directions."""
    given = {"x": torch.randn(2, 21, 37).mT, "weight": torch.randn(37, taps), "bias": torch.randn(37)}
    seq_idx = torch.tensor([0] * 5 + [1] * 9 + [-1] * 7).expand(2, 21).int()
    plain = dict(given, initial_states=torch.randn(2, 37, taps - 1)) if taps > 1 else given
    with lanes(width, monkeypatch):
        dirty_scratch()
        for options in ({}, {"seq_idx": seq_idx}):
            want = run(exact.causal_conv1d_fn, plain, torch.float64, activation="silu", **options)
            got = run(cpu.causal_conv1d_fn, plain, torch.float32, activation="silu", **options)
            assert_close(got, want, 2e-6)
        state = torch.randn(3, 37, taps)
        rows, x = torch.tensor([2, -1]), torch.randn(2, 37, 3)
        after = state.clone()
        out = cpu.causal_conv1d_update(x, after, given["weight"], given["bias"], "silu", None, rows)
        after_exact = state.double()
        want = exact.causal_conv1d_update(
            x.double(), after_exact, given["weight"].double(), given["bias"].double(), "silu", None, rows
        )
        assert_close([out, after], [want, after_exact], 2e-6)


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    given = {"x": torch.randn(1, 300, 200).mT, "weight": torch.randn(200, 4), "bias": torch.randn(200)}
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run(cpu.causal_conv1d_fn, given, torch.float32, activation="silu"))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("batch", [1, 2])
def test_a_view_of_the_projection_is_not_copied(batch: int) -> None:
    x = torch.randn(batch, 60, 300)[..., 7:263].mT
    weight = torch.randn(256, 4)
    with Copies() as copies:
        out = cpu.causal_conv1d_fn(x, weight)
    assert copies.largest <= weight.numel()
    assert isinstance(out, torch.Tensor) and out.stride(1) == 1


def test_the_layout_of_the_input_is_kept() -> None:
    weight = torch.randn(8, 4)
    for x in (torch.randn(2, 8, 9), torch.randn(2, 9, 8).mT):
        out = cpu.causal_conv1d_fn(x, weight)
        assert isinstance(out, torch.Tensor) and out.stride() == x.stride()


def test_nan_in_padding_reaches_nobody() -> None:
    x = torch.randn(1, 12, 5)
    x[:, 4:6] = float("nan")
    seq_idx = torch.tensor([[0] * 4 + [-1] * 2 + [1] * 6])
    out = cpu.causal_conv1d_fn(x.mT, torch.randn(5, 4), None, seq_idx)
    assert isinstance(out, torch.Tensor) and out.isfinite().all()


def test_what_it_cannot_do_it_says() -> None:
    call = Call("causal_conv1d_fn", torch.device("cpu"), torch.float32, sizes=(("width", cpu.WIDEST + 1),))
    ok, reason = cpu.supports(call)
    assert not ok and str(cpu.WIDEST + 1) in reason

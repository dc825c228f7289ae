"""The in-place recurrence: forwards, backwards, in segments, and where decays underflow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anymamba.backends.torch.recurrence import linear_recurrence_


def exact(x: Tensor, decay: Tensor, initial: Tensor, reverse: bool) -> Tensor:
    state, states = initial, {}
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        state = states[t] = decay[t] * state + x[t]
    return torch.stack([states[t] for t in range(len(x))])


@pytest.mark.parametrize("segment", [0, 1, 4, 16])
@pytest.mark.parametrize("length", [1, 3, 8, 37, 64])
@pytest.mark.parametrize("reverse", [False, True])
def test_equals_the_loop(segment: int, length: int, reverse: bool) -> None:
    x, decay = torch.randn(length, 3, 5, dtype=torch.float64), torch.rand(length, 3, 5, dtype=torch.float64)
    initial = torch.randn(3, 5, dtype=torch.float64)
    want = exact(x, decay, initial, reverse)
    linear_recurrence_(x, decay, initial, reverse, segment)
    torch.testing.assert_close(x, want)


@pytest.mark.parametrize("segment", [0, 4])
def test_decay_that_underflows_forgets_and_stays_finite(segment: int) -> None:
    x, decay = torch.ones(64, 2), torch.full((64, 2), 1e-30)
    decay[20:] = 0
    linear_recurrence_(x, decay, torch.full((2,), 1e30), segment=segment)
    assert x[0].tolist() == [2.0, 2.0]
    torch.testing.assert_close(x[1:], torch.ones(63, 2))

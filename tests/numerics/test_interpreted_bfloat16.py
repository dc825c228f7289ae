"""The interpreter's bfloat16 is torch's."""

from __future__ import annotations

import math

import numpy
import torch

from anymamba.numerics.interpreted_bfloat16 import narrowed, widened


def test_rounding_is_torchs() -> None:
    torch.manual_seed(0)
    x = torch.randn(10_000) * 10.0 ** torch.randint(-30, 30, (10_000,))
    ties = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 0.0, -0.0, math.inf, -math.inf, 3.4e38, 1e-40])
    x = torch.cat([x, ties])
    rounded = torch.from_numpy(widened(narrowed(x.numpy())))
    assert torch.equal(rounded, x.bfloat16().float())


def test_not_a_number_stays_one() -> None:
    # the largest NaN: adding to its bits would make it negative zero
    worst = numpy.array([0xFFFFFFFF, 0x7F800001, 0x7FC00000], dtype=numpy.uint32).view(numpy.float32)
    assert numpy.isnan(widened(narrowed(worst))).all()

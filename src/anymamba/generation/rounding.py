"""Four-bit numbers for a matrix: the range of every 32 weights, and weights rounded so that what the layer computes changes least.

Rounding each weight to the nearest number treats all alike. A layer's inputs are not alike: with H, the second moments of the inputs, an
error e in a row of weights changes the outputs by e H e^T. So columns are rounded one after the other, and what one is off by is made
good in those that follow, as far as their inputs go along with its own (Frantar et al. 2022, "GPTQ", algorithm 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.reference import blocks

DAMPING = 0.01
"""Of the mean of H's diagonal, added to it: directions that the text never took count for something."""

SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Of the range from a block's least weight to its greatest that the sixteen numbers may span: a narrower one rounds the many weights
inside finer and cuts off the few at the ends."""


def nearest(weight: Tensor) -> Tensor:
    """(out, in) in blocks (q4_1), each weight rounded to the nearest number of its block's best range."""
    values = weight.float().reshape(weight.shape[0], -1, blocks.SIZE)
    return blocks.rounded(values, "q4_1", *best_range(values))


def best_range(values: Tensor, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scale and minimum, float16 (..., 1), with which rounding values (..., 32) costs the least squared error; importance (..., 32): a
    factor of every square, None: 1."""
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for share in SHARES:
        cut = (high - low) * (1 - share) / 2
        least = (low + cut).half()
        scale = ((high - cut - least.float()) / 15).half()
        squares = (_rounded(values, scale.float(), least.float()) - values).square()
        error = (squares if importance is None else squares * importance).sum(-1, keepdim=True)
        if best is None:
            best = error, scale, least
        else:
            better = error < best[0]
            best = torch.minimum(error, best[0]), torch.where(better, scale, best[1]), torch.where(better, least, best[2])
    assert best is not None
    return best[1], best[2]


def compensated(weight: Tensor, moments: Tensor) -> Tensor:
    """(out, in) in blocks (q4_1), rounded for inputs x with sums of x x^T ``moments`` (in, in), float32."""
    left, size = weight.float().clone(), weight.shape[1]
    diagonal = moments.diagonal()
    mean = diagonal.mean().clamp_min(torch.finfo(torch.float32).tiny)
    damped = moments + torch.diag(torch.where(diagonal == 0, mean, 0) + DAMPING * mean)
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    scales, lows = (torch.empty(len(left), size // blocks.SIZE, 1, dtype=torch.float16) for _ in range(2))
    values = torch.empty_like(left)
    for block in range(size // blocks.SIZE):
        start, end = block * blocks.SIZE, (block + 1) * blocks.SIZE
        scales[:, block], lows[:, block] = best_range(left[:, start:end], diagonal[start:end])
        scale, low = scales[:, block, 0].float(), lows[:, block, 0].float()
        errors = torch.empty(len(left), blocks.SIZE)
        for i in range(start, end):
            values[:, i] = _rounded(left[:, i], scale, low)
            errors[:, i - start] = (left[:, i] - values[:, i]) / factor[i, i]
            left[:, i + 1 : end] -= torch.outer(errors[:, i - start], factor[i, i + 1 : end])
        left[:, end:] -= errors @ factor[start:end, end:]
    return blocks.rounded(values.view(len(left), -1, blocks.SIZE), "q4_1", scales, lows)


def _rounded(values: Tensor, scale: Tensor, low: Tensor) -> Tensor:
    numbers = ((values - low) * torch.where(scale == 0, 0.0, 1 / scale)).round().clamp(0, 15)
    return numbers * scale + low

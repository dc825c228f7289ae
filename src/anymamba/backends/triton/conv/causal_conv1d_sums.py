"""The gradients of a convolution's weight and bias from the sums that the programs of its backward left: one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from anymamba.backends.triton.launch import on_device

BLOCK_R, BLOCK_D = 32, 32
"""Rows that a program adds at a time, and its channels."""


@triton.jit
def conv_sums_kernel(
    partial_ptr, dweight_ptr, dbias_ptr, rows, channels,
    WIDTH: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Grid: (blocks of channels, WIDTH + HAS_BIAS). partial: (rows, WIDTH + HAS_BIAS, channels); dweight: (channels, WIDTH)."""
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    j = tl.program_id(1)
    ok = d < channels
    total = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    for first in range(0, rows, BLOCK_R):
        row = first + tl.arange(0, BLOCK_R)
        at = (row.to(tl.int64) * (WIDTH + HAS_BIAS) + j) * channels
        total += tl.load(partial_ptr + at[:, None] + d[None, :], mask=(row < rows)[:, None] & ok[None, :], other=0.0)
    summed = tl.sum(total, 0)
    tl.store(dweight_ptr + d.to(tl.int64) * WIDTH + j, summed.to(dweight_ptr.dtype.element_ty), mask=d < tl.where(j < WIDTH, channels, 0))
    if HAS_BIAS:
        tl.store(dbias_ptr + d, summed.to(dbias_ptr.dtype.element_ty), mask=d < tl.where(j == WIDTH, channels, 0))


def conv_sums(partial: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Gradients of weight (channels, width), contiguous, and bias (channels,), in their dtypes. partial: (rows, width, channels) or, with
    a bias, (rows, width + 1, channels)."""
    rows, terms, channels = partial.shape
    dweight = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    dbias = None if bias is None else torch.empty_like(bias)
    with on_device(partial):
        conv_sums_kernel[(-(-channels // BLOCK_D), terms)](
            partial, dweight, dbias if dbias is not None else dweight, rows, channels,
            WIDTH=weight.shape[1], HAS_BIAS=bias is not None, BLOCK_R=BLOCK_R, BLOCK_D=BLOCK_D, num_warps=4, num_stages=1,
        )  # fmt: skip
    return dweight, dbias

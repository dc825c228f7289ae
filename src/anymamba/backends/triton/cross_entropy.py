"""The softmax under the cross-entropy: a program a row, which it reads twice and writes once, the second time out of the cache."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from anymamba.backends.triton.elementary import exp
from anymamba.backends.triton.launch import lanes, on_device, power_of_2
from anymamba.backends.triton.launch import runs_here as supports

_LARGEST_BLOCK = 8192
"""Columns a program holds in registers. 16 warps of 16 values a lane: two programs a multiprocessor, whose rows fit the cache."""

__all__ = ["log_softmax_and_slope", "supports"]


@triton.jit
def log_softmax_and_slope_kernel(
    logits_ptr, targets_ptr, chosen_ptr, row_units, target_stride, width_units,
    UNIT: tl.constexpr, BLOCK: tl.constexpr, SLOPE: tl.constexpr,
):  # fmt: skip
    """Grid: (rows,). Rows are row_units * UNIT elements apart and width_units * UNIT long.

    UNIT is a power of 2 that tells the compiler how many neighbours it may load at once. Each lane keeps its own share of the sum
    of exp(x - largest so far); only the largest value is agreed on between them at every block.
    """
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * row_units * UNIT
    width = width_units * UNIT
    column = tl.arange(0, BLOCK)
    # read before anything is overwritten; a target that is no column gives NaN
    target = tl.load(targets_ptr + row * target_stride).to(tl.int64)
    target_logit = tl.load(row_ptr + target, mask=(target >= 0) & (target < width), other=float("nan")).to(tl.float32)
    largest = -float("inf")
    shift = 0.0
    share = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        at = start + column
        x = tl.load(row_ptr + at, mask=at < width, other=-float("inf")).to(tl.float32)
        before = largest
        largest = tl.maximum(before, tl.max(x, axis=0))
        # as long as all is -inf, its difference from the largest would be NaN
        shift = tl.where(largest == -float("inf"), 0.0, largest)
        share = share * exp(before - shift) + exp(x - shift)
    total = tl.sum(share, axis=0)
    tl.store(chosen_ptr + row, target_logit - shift - tl.log(total))
    if SLOPE:
        scale = 1.0 / total
        for start in range(0, width, BLOCK):
            at = start + column
            x = tl.load(row_ptr + at, mask=at < width, other=-float("inf")).to(tl.float32)
            slope = exp(x - shift) * scale - tl.where(at == target, 1.0, 0.0)
            tl.store(row_ptr + at, slope.to(logits_ptr.dtype.element_ty), mask=at < width)


def log_softmax_and_slope(logits: Tensor, targets: Tensor, slope: bool) -> Tensor:
    """See anymamba.ops.log_softmax_and_slope. logits: (tokens, vocabulary), the last stride 1, changed in place with slope."""
    tokens, vocabulary = logits.shape
    chosen = torch.empty(tokens, dtype=torch.float32, device=logits.device)
    stride = logits.stride(0) if tokens > 1 else vocabulary
    unit = math.gcd(stride, vocabulary, 16)
    block = min(power_of_2(vocabulary), _LARGEST_BLOCK)
    with torch.no_grad(), on_device(logits):
        log_softmax_and_slope_kernel[(tokens,)](
            logits, targets, chosen, stride // unit, targets.stride(0), vocabulary // unit,
            UNIT=unit, BLOCK=block, SLOPE=slope, num_warps=max(block // (16 * lanes(logits.device)), 1), num_stages=1,
        )  # fmt: skip
    return chosen

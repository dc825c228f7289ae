"""The documents of a packed batch as Mamba-2's scan numbers them: one launch, for every layer asks twice a training step."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from anymamba.backends.triton.launch import on_device, power_of_2


@triton.jit
def later_real(earlier, later):
    return tl.where(later >= 0, later, earlier)


@triton.jit
def ssd_documents_kernel(seq_ptr, number_ptr, seq_b, seq_l, length, padded, BLOCK: tl.constexpr):
    """Grid: (batch,). seq: (batch, length); number: (batch, padded) int32, contiguous."""
    b = tl.program_id(0).to(tl.int64)
    seq_ptr += b * seq_b
    number_ptr += b * padded
    real = tl.full([], -1, tl.int64)  # the last document's seq_idx so far, and its number
    number = tl.full([], 0, tl.int32)
    for start in range(0, padded, BLOCK):
        t = start + tl.arange(0, BLOCK)
        own = tl.load(seq_ptr + t.to(tl.int64) * seq_l, mask=t < length, other=-1).to(tl.int64)
        before = tl.load(seq_ptr + (t - 1).to(tl.int64) * seq_l, mask=(t > 0) & (t <= length), other=-1).to(tl.int64)
        # a padding token takes the place of the last that is not
        own = later_real(real, tl.associative_scan(own, 0, later_real))
        before = later_real(real, tl.associative_scan(before, 0, later_real))
        begins = ((own != before) & (before >= 0)).to(tl.int32)
        tl.store(number_ptr + t, number + tl.cumsum(begins, 0), mask=t < padded)
        number += tl.sum(begins, 0)
        real = tl.sum(tl.where(t == start + BLOCK - 1, own, 0), 0)


def number_documents(seq_idx: Tensor, q: int) -> Tensor:
    """(batch, length rounded up to chunks of q) int32: documents numbered 0, 1, 2, ... in order; padding (below 0) counts as part
    of the document before it, and so does what follows the last token."""
    batch, length = seq_idx.shape
    padded = -(-length // q) * q
    numbers = torch.empty((batch, padded), dtype=torch.int32, device=seq_idx.device)
    if numbers.numel():
        with on_device(seq_idx):
            ssd_documents_kernel[(batch,)](
                seq_idx, numbers, *seq_idx.stride(), length, padded, BLOCK=min(power_of_2(padded), 512), num_warps=4, num_stages=1
            )
    return numbers

"""The documents of a packed batch as Mamba-1's scan reads them: one launch, for every layer asks twice a training step."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from anymamba.backends.triton.launch import on_device, power_of_2
from anymamba.backends.triton.scan.selective_scan_memory import PADDING, START
from anymamba.backends.triton.ssd.ssd_documents import later_real


@triton.jit
def selective_scan_marks_kernel(seq_ptr, marks_ptr, seq_b, seq_l, length, BLOCK: tl.constexpr):
    """Grid: (batch,). seq: (batch, length); marks: (batch, length) int32, contiguous."""
    b = tl.program_id(0).to(tl.int64)
    seq_ptr += b * seq_b
    marks_ptr += b * length
    real = tl.full([], -1, tl.int64)  # seq_idx of the last token so far that is no padding
    for start in range(0, length, BLOCK):
        t = start + tl.arange(0, BLOCK)
        own = tl.load(seq_ptr + t.to(tl.int64) * seq_l, mask=t < length, other=-1).to(tl.int64)
        before = tl.load(seq_ptr + (t - 1).to(tl.int64) * seq_l, mask=(t > 0) & (t <= length), other=-1).to(tl.int64)
        before = later_real(real, tl.associative_scan(before, 0, later_real))
        starts = (own != before) & (before >= 0)
        marks = tl.where(own < 0, PADDING, tl.where(starts, START, 0))
        tl.store(marks_ptr + t, marks, mask=t < length)
        last = later_real(before, own)
        real = tl.sum(tl.where(t == start + BLOCK - 1, last, 0), 0)


def marks_of(seq_idx: Tensor) -> Tensor:
    """(batch, length) int32: START where a token's document is not that of the last one before it that is no padding, PADDING where
    seq_idx is below 0, else 0."""
    marks = torch.empty(seq_idx.shape, dtype=torch.int32, device=seq_idx.device)
    if marks.numel():
        batch, length = seq_idx.shape
        with on_device(seq_idx):
            selective_scan_marks_kernel[(batch,)](
                seq_idx, marks, *seq_idx.stride(), length, BLOCK=min(power_of_2(length), 512), num_warps=4, num_stages=1
            )
    return marks

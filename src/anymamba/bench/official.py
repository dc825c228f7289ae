"""mamba-ssm 2.3.2.post1 and causal-conv1d 1.7.0, built for sm_90, on one H100 SXM with torch 2.11, bf16: medians in milliseconds.

Measured by this project. The same card moved 3.0 TB/s in a device-to-device copy. Times of single ops stand in the ops' specs
(OpSpec.bench): (forward, backward) milliseconds of the public functions.
"""

from __future__ import annotations

SOURCE = "mamba-ssm 2.3.2.post1, causal-conv1d 1.7.0, torch 2.11, one H100 SXM, bf16, medians"

COPY_BANDWIDTH = 3.0e12
"""Bytes a second read and written by a device-to-device copy on that card."""

DECODE = {("mamba", "130m"): 3516.0, ("mamba", "2.8b"): 252.0, ("mamba2", "130m"): 1642.0, ("mamba2", "2.8b"): 333.0}
"""Tokens a second, batch 1, with a CUDA graph. The largest Mamba-2 is published as 2.7b; it has the width and depth of 2.8b."""

TRAIN = {
    ("mamba", "130m", 8): 164e3,
    ("mamba", "2.8b", 1): 6.5e3,
    ("mamba2", "130m", 8): 80e3,
    ("mamba2", "2.8b", 1): 3.2e3,
}
"""Tokens a second of forward and backward, bf16, length 2048, by (family, size, batch)."""

"""mamba-ssm 2.3.2.post1 and causal-conv1d 1.7.0, built for sm_90, on one H100 SXM with torch 2.11, bf16: medians in milliseconds.

Measured by this project. The same card moved 3.0 TB/s in a device-to-device copy. (forward, backward) by shape.
"""

from __future__ import annotations

SOURCE = "mamba-ssm 2.3.2.post1, causal-conv1d 1.7.0, torch 2.11, one H100 SXM, bf16, medians"

COPY_BANDWIDTH = 3.0e12
"""Bytes a second read and written by a device-to-device copy on that card."""

SCAN = {
    (8, 2048, 2048, 16): (0.590, 2.416),
    (8, 2048, 5120, 16): (1.447, 6.039),
    (1, 8192, 5120, 16): (0.924, 3.373),
    (1, 2048, 1536, 16): (0.071, 0.302),
}
"""(batch, length, d_inner, d_state), with z, D, delta_bias and softplus."""

CONV = {"length": (0.122, 0.280), "channels": (0.134, 0.334)}
"""batch 8, length 2048, 5120 channels, width 4, SiLU; by what is contiguous in memory."""

SSD = {
    (8, 2048, 80, 64, 128): (1.023, 4.153),
    (1, 8192, 80, 64, 128): (1.156, 4.759),
    (8, 4096, 32, 64, 128): (1.081, 4.192),
}
"""(batch, length, nheads, headdim, d_state)."""

DECODE = {("mamba", "130m"): 3516.0, ("mamba", "2.8b"): 252.0, ("mamba2", "130m"): 1642.0, ("mamba2", "2.8b"): 333.0}
"""Tokens a second, batch 1, with a CUDA graph. The largest Mamba-2 is published as 2.7b; it has the width and depth of 2.8b."""

TRAIN = {
    ("mamba", "130m", 8): 164e3,
    ("mamba", "2.8b", 1): 6.5e3,
    ("mamba2", "130m", 8): 80e3,
    ("mamba2", "2.8b", 1): 3.2e3,
}
"""Tokens a second of forward and backward, bf16, length 2048, by (family, size, batch)."""

"""What GGUF numbers its types by: of metadata values and of tensors (the format's specification, ggml/docs/gguf.md)."""

from __future__ import annotations

from typing import NamedTuple


class TensorType(NamedTuple):
    """size: weights of a block; bytes: of a block."""

    name: str
    size: int
    bytes: int

    def row_bytes(self, columns: int) -> int:
        return columns // self.size * self.bytes


TENSORS = {
    0: TensorType("F32", 1, 4), 1: TensorType("F16", 1, 2), 30: TensorType("BF16", 1, 2), 28: TensorType("F64", 1, 8),
    2: TensorType("Q4_0", 32, 18), 3: TensorType("Q4_1", 32, 20), 6: TensorType("Q5_0", 32, 22), 7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34), 10: TensorType("Q2_K", 256, 84), 11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144), 13: TensorType("Q5_K", 256, 176), 14: TensorType("Q6_K", 256, 210),
}  # fmt: skip
"""By number; what else GGUF knows (IQ..., TQ..., MXFP4) no published Mamba uses."""

PLAIN = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
"""Types that are numbers one by one, as numpy has them (BF16 as bits)."""

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""Metadata values, as ``struct`` has them."""

STRING, ARRAY = 8, 9

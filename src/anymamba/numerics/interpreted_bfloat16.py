"""bfloat16 in Triton's interpreter: rounded to nearest even as every GPU rounds, and multiplied as the numbers that they are.

The interpreter keeps a bfloat16 as the unsigned integer of its bits. As Triton 3.6 has it, its products multiply those integers, and a
float32 that becomes a bfloat16 is cut off, which is a bias in one direction. NumPy has no bfloat16; a float32 holds each exactly.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy


def widened(bits: Any) -> Any:
    """The float32 numbers that these bits of bfloat16 are."""
    return (bits.view(numpy.uint16).astype(numpy.uint32) << 16).view(numpy.float32)


def narrowed(numbers: Any) -> Any:
    """The bits of the nearest bfloat16, of two that are as near the even one; NaN stays NaN."""
    bits = numpy.ascontiguousarray(numbers, dtype=numpy.float32).view(numpy.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return numpy.where(numpy.isnan(numbers), 0x7FC0, rounded).astype(numpy.uint16)


@functools.cache
def mend() -> None:
    """From here on the interpreter of this process does so."""
    interpreter: Any = importlib.import_module("triton.runtime.interpreter")
    tl = interpreter.tl
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    cast, dot = builder.cast_impl, builder.create_dot

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        kinds = source.dtype.scalar, target.scalar
        if kinds == (tl.float32, tl.bfloat16):
            return handle(narrowed(source.data), tl.bfloat16)
        if kinds == (tl.bfloat16, tl.float32):
            return handle(widened(source.data), tl.float32)
        return cast(self, source, target)

    def create_dot(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        if a.dtype.scalar != tl.bfloat16:
            return dot(self, a, b, d, *options)
        return handle(numpy.matmul(widened(a.data), widened(b.data)) + d.data, d.dtype.scalar)

    # its many conversions are aliases of one method; each looks it up in the instance
    builder.cast_impl, builder.create_dot = cast_impl, create_dot

"""Walking over channels whose number is no multiple of the vector width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from anymamba.backends.cpu.jit.emit import Kernel, Value
from anymamba.backends.cpu.jit.values import I32

Left = Value | int | None
"""How many channels a vector has: None for all; see over_channels."""


def over_channels(k: Kernel, first: Any, end: Value, body: Callable[[Value, Left], None]) -> None:
    """body(c, left) for each vector of channels from first on, left being None where it is whole, so that the hot loop has no masks.

    What is left over comes as one masked vector, or, where the target has no masks, channel by channel (left is 1), which keeps the
    code small."""
    first = k.integer(first)
    whole = first + (end - first) / k.width * k.width
    with k.loop(first, whole, k.width) as c:
        body(c, None)
    if k.target.masked:
        with k.if_(whole < end):
            body(whole, end - whole)
    else:
        with k.loop(whole, end) as c:
            body(c, 1)


def lanes_below(k: Kernel, limit: Any, offset: int = 0) -> Value:
    """Truth vector: offset + lane < limit."""
    every = k.broadcast_ir(k.builder.trunc(k.integer(limit).ir, I32))
    numbers = ir.Constant(ir.VectorType(I32, k.width), list(range(offset, offset + k.width)))
    return k.wrap(k.builder.icmp_signed("<", numbers, every))

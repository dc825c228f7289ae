"""Walking over channels whose number is no multiple of the vector width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from anymamba.backends.cpu.emit import Kernel, Value
from anymamba.backends.cpu.memory import I32


def over_channels(k: Kernel, first: Any, end: Value, body: Callable[[Value, Value | None], None]) -> None:
    """body(c, left) for each vector of channels from first on: left is None where it is whole, so the hot loop has no masks, and the
    number of its channels for the last one."""
    first = k.integer(first)
    whole = first + (end - first) / k.width * k.width
    with k.loop(first, whole, k.width) as c:
        body(c, None)
    with k.if_(whole < end):
        body(whole, end - whole)


def lanes_below(k: Kernel, limit: Value, offset: int = 0) -> Value:
    """Truth vector: offset + lane < limit."""
    every = k.broadcast_ir(k.builder.trunc(limit.ir, I32))
    numbers = ir.Constant(ir.VectorType(I32, k.width), list(range(offset, offset + k.width)))
    return k.wrap(k.builder.icmp_signed("<", numbers, every))

"""Kernels of the causal depthwise convolution where a channel's tokens lie side by side. Lanes are tokens; a row is one channel of a text.

A stretch of a row is widened to float32 in the nearest cache, with the width - 1 tokens before it in front, so that every tap reads a
vector at another offset of the same memory. Sums are formed in the order of causal_conv1d_kernels.
"""

from __future__ import annotations

from anymamba.backends.cpu.jit.emit import Kernel, Value, Variable
from anymamba.backends.cpu.jit.lanes import Left, lanes_below, over_channels
from anymamba.backends.cpu.jit.memory import Pointer
from anymamba.backends.cpu.jit.vecmath import sigmoid, silu

STRETCH = 1024
"""Tokens at work: 4 KiB, and as much again for gradients."""


class _Row:
    """One channel of one text. x (batch, dim, length) with any strides but 1 along the length; before (batch, dim, width - 1), or not
    there and zeros; taps (dim, width), the last weighs the token itself; bias (dim,)."""

    def __init__(self, k: Kernel, dtype: str, width: int, starts: bool, row: Value) -> None:
        self.k, self.width = k, width
        self.length, dim = k.size("length"), k.size("dim")
        batch, channel = row / dim, row % dim
        self.x = k.pointer("x", dtype).at(batch * k.size("x_batch") + channel * k.size("x_channel"))
        self.before = k.pointer("before", dtype).at(row * (width - 1)) if starts else None
        taps = k.pointer("taps", "float32").at(channel * width)
        self.taps = [taps.broadcast(width - 1 - j) for j in range(width)]  # tap j weighs the token j steps back
        self.bias = k.pointer("bias", "float32").broadcast(channel)
        self.batch, self.channel = batch, channel

    def widen(self, line: Pointer, start: Value, count: Value) -> None:
        """line[width - 1 + i] = x[start + i]; the tokens before them are already there."""
        over_channels(
            self.k, 0, count, lambda i, left: line.store(i + (self.width - 1), self.x.load(start + i, left), left)
        )

    def earliest(self, line: Pointer) -> None:
        """The tokens before token 0."""
        for j in range(self.width - 1):
            line.store_scalar(j, self.k.scalar(0.0) if self.before is None else self.before.scalar(j))

    def sum(self, line: Pointer, i: Value, left: Left) -> Value:
        total = self.bias
        for j in range(self.width - 1, -1, -1):
            total = total + line.load(i + (self.width - 1 - j), left) * self.taps[j]
        return total


def forward(k: Kernel, dtype: str, width: int, activation: bool, starts: bool) -> None:
    """out (batch, dim, length), contiguous. Task: some rows."""
    line = k.scratch(STRETCH + width - 1)
    rows, block, length = k.size("rows"), k.size("block"), k.size("length")
    first = k.task * block
    with k.loop(first, k.minimum(first + block, rows)) as number:
        row, out = _Row(k, dtype, width, starts, number), k.pointer("out", dtype).at(number * length)
        row.earliest(line)
        with k.loop(0, length, STRETCH) as start:
            count = k.minimum(length - start, STRETCH)
            row.widen(line, start, count)

            def write(i: Value, left: Left, row: _Row = row, out: Pointer = out, start: Value = start) -> None:
                value = row.sum(line, i, left)
                out.store(start + i, silu(value) if activation else value, left)

            over_channels(k, 0, count, write)
            for j in range(width - 1):
                line.store_scalar(j, line.scalar(count + j))


def backward(k: Kernel, dtype: str, width: int, activation: bool, starts: bool) -> None:
    """dx (batch, dim, length), contiguous; dtaps (batch, dim, width + 1): of the taps, then of the bias; dbefore like before.
    Task: some rows, each from its last token to the first."""
    line, gradients, later = k.scratch(STRETCH + width - 1), k.scratch(STRETCH + width - 1), k.scratch(max(width - 1, 1))
    rows, block, length = k.size("rows"), k.size("block"), k.size("length")
    first = k.task * block
    with k.loop(first, k.minimum(first + block, rows)) as number:
        row = _Row(k, dtype, width, starts, number)
        dout = k.pointer("dout", dtype).at(row.batch * k.size("dout_batch") + row.channel * k.size("dout_channel"))
        dx, dtaps = k.pointer("dx", dtype).at(number * length), k.pointer("dtaps", "float32").at(number * (width + 1))
        totals = [k.variable(0.0) for _ in range(width + 1)]
        for j in range(width - 1):
            later.store_scalar(j, k.scalar(0.0))
        with k.loop(0, (length + (STRETCH - 1)) / STRETCH, reverse=True) as stretch:
            start = stretch * STRETCH
            count = k.minimum(length - start, STRETCH)
            with k.if_else(start > 0) as (inside, at_start):
                with inside:
                    for j in range(width - 1):
                        line.store_scalar(j, row.x.scalar(start + (j - (width - 1))))
                with at_start:
                    row.earliest(line)
            row.widen(line, start, count)

            def differentiate(
                i: Value, left: Left, row: _Row = row, dout: Pointer = dout, start: Value = start, totals: list[Variable] = totals
            ) -> None:
                gradient = dout.load(start + i, left)
                if activation:
                    value = row.sum(line, i, left)
                    s = sigmoid(value)
                    gradient = gradient * s * (1.0 + value * (1.0 - s))
                    if left is not None:  # an infinite bias would make NaN of the lanes past the end
                        gradient = k.select(lanes_below(k, left), gradient, 0.0)
                gradients.store(i, gradient, left)
                for j in range(width):
                    totals[j].add(gradient * line.load(i + (width - 1 - j), left))
                totals[width].add(gradient)

            over_channels(k, 0, count, differentiate)
            for j in range(width - 1):
                gradients.store_scalar(count + j, later.scalar(j))

            def write(i: Value, left: Left, row: _Row = row, dx: Pointer = dx, start: Value = start) -> None:
                value = gradients.load(i, left) * row.taps[0]
                for j in range(1, width):
                    value = value + gradients.load(i + j, left) * row.taps[j]
                dx.store(start + i, value, left)

            over_channels(k, 0, count, write)
            for j in range(width - 1):
                later.store_scalar(j, gradients.scalar(j))
        for j, total in enumerate(totals):
            dtaps.store_scalar(j, k.sum_lanes(total.value))
        if starts:
            dbefore = k.pointer("dbefore", dtype).at(number * (width - 1))
            taps = k.pointer("taps", "float32").at(row.channel * width)
            for m in range(1, width):
                value = k.scalar(0.0)
                for j in range(m, width):
                    value = value + later.scalar(j - m) * taps.scalar(width - 1 - j)
                dbefore.store_scalar(width - 1 - m, value)

"""The small matrix products that the SSD kernels are made of, as functions that a kernel calls: all in float32, on scratch memory.

Sizes are run-time values, so one compiled kernel serves every headdim and d_state. Rows come in multiples of TILE_ROWS, columns in
multiples of the vector width; callers pad with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from anymamba.backends.cpu.jit.emit import Kernel, Value
from anymamba.backends.cpu.jit.memory import Pointer
from anymamba.backends.cpu.jit.values import I32, I64, PTR
from anymamba.backends.cpu.jit.vecmath import exp_for_products

CHUNK = 32
"""Tokens handled at once: long enough to spread the loads of a state over, short enough that the products inside a chunk, which grow
with it, stay a small part. On Zen 4, headdim 64 and d_state 128, 32 was fastest forward and backward; 16 took 3% longer, 64 7%, and the
recurrence token by token, its state in registers, longer than all of these. A multiple of every vector width."""

TILE_ROWS = 4
"""Rows of a product that are kept in registers together."""


@contextmanager
def subroutine(k: Kernel, name: str, kinds: list[ir.Type]) -> Iterator[list[Value]]:
    """Emits a function of its own into the kernel's module while the block runs; yields its arguments."""
    function = ir.Function(k.module, ir.FunctionType(ir.VoidType(), kinds), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    outer = k.function, k.entry, k.builder
    k.function, k.entry = function, function.append_basic_block("entry")
    k.builder = ir.IRBuilder(function.append_basic_block("body"))
    yield [Value(k, argument) for argument in function.args]
    k.builder.ret_void()
    with k.builder.goto_block(k.entry):
        k.builder.branch(function.blocks[1])
    k.function, k.entry, k.builder = outer


def memory(k: Kernel, address: Value) -> Pointer:
    return Pointer(k, "float32", address.ir)


class Tiles:
    """The subroutines of one kernel: emit it first, then call its methods."""

    def __init__(self, k: Kernel) -> None:
        self.k = k
        # vector registers: 16 on AVX2 and SSE, 32 on AVX-512 and NEON
        self.columns = 4 if k.width == 16 else 2
        self._product()
        self._transpose()

    def product(
        self,
        out: Pointer,
        out_row: Value | int,
        left: Pointer,
        left_row: Value | int,
        left_step: Value | int,
        right: Pointer,
        right_row: Value | int,
        rows: Value | int,
        columns: Value | int,
        last: Value | int,
        *,
        start: Pointer | None = None,
        scale: Pointer | None = None,
        scale_row: Value | int = 0,
        first_slope: int = 0,
        last_slope: int = 0,
    ) -> None:
        """out[r, c] = scale[r * scale_row] * start[r, c] + sum over i of left[r * left_row + i * left_step] * right[i, c].

        start (rows as in out): None is zero. scale: None is one. i runs from first_slope * R to last + last_slope * (R + TILE_ROWS),
        R being r rounded down to TILE_ROWS: slopes of 1 skip the zeros of a triangular left side. columns: a multiple of the width.
        """
        k, null = self.k, ir.Constant(PTR, None)
        pointers = {"start": start, "scale": scale}
        addresses = {name: null if pointer is None else pointer.address for name, pointer in pointers.items()}
        integers = [out_row, scale_row, left_row, left_step, right_row, rows, columns, last, first_slope, last_slope]
        arguments = [out.address, addresses["start"], addresses["scale"], left.address, right.address]
        k.builder.call(k.module.globals["product"], arguments + [k.integer(value).ir for value in integers])

    def transpose(
        self, out: Pointer, out_row: Value | int, source: Pointer, source_row: Value | int, rows: Value | int, columns: Value | int
    ) -> None:
        """out[c, r] = source[r, c]; rows and columns of the source are multiples of the width."""
        k = self.k
        integers = [k.integer(value).ir for value in (out_row, source_row, rows, columns)]
        k.builder.call(k.module.globals["transpose"], [out.address, source.address, *integers])

    def _product(self) -> None:
        k = self.k
        with subroutine(k, "product", [PTR] * 5 + [I64] * 10) as arguments:
            out, start, scale, left, right = (memory(k, address) for address in arguments[:5])
            out_row, scale_row, left_row, left_step, right_row, rows, columns, last, first_slope, last_slope = arguments[5:]
            has_start, has_scale = (_present(k, pointer) for pointer in (start, scale))
            whole = columns / (self.columns * k.width) * (self.columns * k.width)

            def tile(r: Value, column: Value, vectors: int) -> None:
                sums = [[k.variable(0.0) for _ in range(vectors)] for _ in range(TILE_ROWS)]
                with k.if_(has_start):
                    for i, line in enumerate(sums):
                        factor = k.variable(1.0)
                        with k.if_(has_scale):
                            factor.set(scale.broadcast((r + i) * scale_row))
                        for j, total in enumerate(line):
                            total.set(start.load((r + i) * out_row + column + j * k.width) * factor.value)
                stop = last + last_slope * (r + TILE_ROWS)
                with k.loop(first_slope * r, stop) as step:
                    vector = [right.load(step * right_row + column + j * k.width) for j in range(vectors)]
                    for i, line in enumerate(sums):
                        weight = left.broadcast((r + i) * left_row + step * left_step)
                        for j, total in enumerate(line):
                            total.set(total.value + weight * vector[j])
                for i, line in enumerate(sums):
                    for j, total in enumerate(line):
                        out.store((r + i) * out_row + column + j * k.width, total.value)

            with k.loop(0, whole, self.columns * k.width) as column, k.loop(0, rows, TILE_ROWS) as r:
                tile(r, column, self.columns)
            with k.loop(whole, columns, k.width) as column, k.loop(0, rows, TILE_ROWS) as r:
                tile(r, column, 1)

    def _transpose(self) -> None:
        k, width = self.k, self.k.width
        with subroutine(k, "transpose", [PTR] * 2 + [I64] * 4) as arguments:
            out, source = (memory(k, address) for address in arguments[:2])
            out_row, source_row, rows, columns = arguments[2:]
            with k.loop(0, rows, width) as r, k.loop(0, columns, width) as c:
                lines = [source.load((r + i) * source_row + c).ir for i in range(width)]
                for i, line in enumerate(transposed(k, lines)):
                    out.store((c + i) * out_row + r, Value(k, line))


def _present(k: Kernel, pointer: Pointer) -> Value:
    return Value(k, k.builder.icmp_unsigned("!=", k.builder.ptrtoint(pointer.address, I64), I64(0)))


def transposed(k: Kernel, lines: list[Any]) -> list[Any]:
    """A square of vectors mirrored at its diagonal: at distance 1, 2, 4, ... lanes, pairs of lines trade the lanes that lie across."""
    width = len(lines)
    distance = 1
    while distance < width:
        lower = [lane if not lane & distance else width + lane - distance for lane in range(width)]
        upper = [lane + distance if not lane & distance else width + lane for lane in range(width)]
        masks = [ir.Constant(ir.VectorType(I32, width), lanes) for lanes in (lower, upper)]
        for i in range(width):
            if not i & distance:
                pair = lines[i], lines[i + distance]
                lines[i], lines[i + distance] = (k.builder.shuffle_vector(*pair, mask) for mask in masks)
        distance *= 2
    return lines


class Decays:
    """Decay factors of a chunk, in scratch: token t of the chunk has step[t] (dt), factor[t] = exp(dt A), 0 where a document starts.

    from_start[t]: product of the factors up to and with t, what is left of the arriving state. to_end[t]: product of those after t.
    whole: product of all. between[t, s] (CHUNK, CHUNK): product of those after s up to t, 0 for s > t. Products of factors keep their
    digits where a difference of two long cumulative sums has lost them.
    """

    SCRATCH = 4 * CHUNK + 16 + CHUNK * CHUNK

    def __init__(self, k: Kernel, scratch: Pointer) -> None:
        self.k = k
        self.step, self.factor, self.from_start, self.to_end = (scratch.at(i * CHUNK) for i in range(4))
        self.whole = scratch.at(4 * CHUNK)
        self.between = scratch.at(4 * CHUNK + 16)

    def fill(self, dt: Pointer, carry: Pointer, rate: Value | Pointer, tokens: Value) -> None:
        """dt, carry: of the chunk's tokens; past them dt counts as 0. carry: 0 where a document starts, else 1. rate: A; a pointer: to
        the logarithms of the tokens' factors, which then have nothing to do with dt."""
        k = self.k
        for offset in range(0, CHUNK, k.width):
            left = tokens - offset
            step = dt.load(offset, left)
            self.step.store(offset, step)
            exponent = rate.load(offset, left) if isinstance(rate, Pointer) else step * rate
            self.factor.store(offset, exp_for_products(exponent) * carry.load(offset, left))
        product = k.variable(k.scalar(1.0))
        with k.loop(0, tokens) as t:
            product.set(product.value * self.factor.scalar(t))
            self.from_start.store_scalar(t, product.value)
        self.whole.store_scalar(0, product.value)
        product.set(k.scalar(1.0))
        with k.loop(0, tokens, reverse=True) as t:
            self.to_end.store_scalar(t, product.value)
            product.set(product.value * self.factor.scalar(t))
        with k.loop(tokens, CHUNK) as t:
            for vector in (self.from_start, self.to_end):
                vector.store_scalar(t, k.scalar(0.0))

    def fill_between(self, tokens: Value) -> None:
        """Rows up to the next multiple of TILE_ROWS; those past the tokens hold finite numbers only."""
        k = self.k
        lanes = [_lane_numbers(k, offset) for offset in range(0, CHUNK, k.width)]
        row = [k.variable(0.0) for _ in lanes]
        with k.loop(0, (tokens + (TILE_ROWS - 1)) / TILE_ROWS * TILE_ROWS) as t:
            factor = k.variable(0.0)
            with k.if_(t < tokens):
                factor.set(self.factor.broadcast(t))
            for number, vector in zip(lanes, row):
                here = k.broadcast_ir(k.builder.trunc(t.ir, I32))
                diagonal = Value(k, k.builder.icmp_signed("==", number, here))
                vector.set(k.select(diagonal, 1.0, vector.value * factor.value))
            for offset, vector in zip(range(0, CHUNK, k.width), row):
                self.between.store(t * CHUNK + offset, vector.value)


def _lane_numbers(k: Kernel, offset: int) -> Any:
    return ir.Constant(ir.VectorType(I32, k.width), list(range(offset, offset + k.width)))


def pack(k: Kernel, out: Pointer, source: Pointer, source_row: Value | int, tokens: Value, count: Value, columns: Value) -> None:
    """The tokens' rows of count elements, to CHUNK rows of ``columns`` float32, zero where there is nothing."""
    with k.loop(0, tokens) as t, k.loop(0, columns, k.width) as c:
        out.store(t * columns + c, source.load(t * source_row + c, count - c))
    with k.loop(tokens * columns, columns * CHUNK, k.width) as i:
        out.store(i, k.vector(0.0))


def fetch(k: Kernel, source: Pointer, source_row: Value | int, tokens: Value, count: Value, write: bool = False) -> None:
    """Starts loading the rows that pack will read, or that will be written, a chunk ahead: they lie pages apart, where no processor
    prefetches by itself. tokens may be zero or less."""
    with k.loop(0, tokens) as t, k.loop(0, count, 64 // source.bytes) as c:
        source.prefetch(t * source_row + c, write)


def scale_rows(k: Kernel, out: Pointer, source: Pointer, columns: Value, *factors: Pointer) -> None:
    """CHUNK rows, row t times the product of factors[t]."""
    with k.loop(0, CHUNK) as t:
        factor = factors[0].broadcast(t)
        for other in factors[1:]:
            factor = factor * other.broadcast(t)
        with k.loop(0, columns, k.width) as c:
            out.store(t * columns + c, source.load(t * columns + c) * factor)


class Room:
    """Hands out pieces of a kernel's scratch memory whose sizes are known at run time only."""

    def __init__(self, k: Kernel, floats: int) -> None:
        self.k, self.memory, self.used = k, k.scratch(floats), k.integer(0)

    def take(self, count: Value | int) -> Pointer:
        """count: a multiple of the vector width."""
        start, self.used = self.used, self.used + count
        return self.memory.at(start)

"""Weights in blocks of 32 (``anymamba.reference.blocks``), read by kernels as they lie in memory.

A step of decoding is bound by reading the weights, and four-bit ones leave three cycles for a block (Zen 3, two cores on one memory): too
few to widen each weight to float32. There the vectors of a step are rounded to 16 bits first, 32 numbers with a scale of their own, and
products of 16-bit integers are summed in 32 bits, exactly; blocks are added in float32. That rounding is at most 1/65534 of the
largest of 32 numbers: two hundred times finer than the eight bits that llama.cpp rounds to, and a thousand times than the weights' own.
Eight-bit weights leave time enough: they are widened, and nothing is rounded. On processors with VNNI, LLVM makes one instruction of
the two that multiply and add; on arm64 it makes widening multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from anymamba.backends.cpu.jit.emit import Kernel, Value, Variable
from anymamba.backends.cpu.jit.memory import Pointer
from anymamba.backends.cpu.jit.values import F16, F32, I8, I16, I32, Emitter
from anymamba.reference import blocks

SIZE = blocks.SIZE
LARGEST = 32767
"""Of the 16-bit numbers. 32 products with four-bit numbers stay far below 2**31."""


class BlockPointer(Pointer):
    """A matrix in blocks; offsets count bytes. format: a name of ``blocks.BYTES``."""

    def __init__(self, k: Kernel, format: str, address: Any) -> None:
        super().__init__(k, "int8", address)
        self.format, self.block = format, blocks.BYTES[format]

    def part(self, offset: Value | int, count: int, kind: ir.Type = I8) -> Any:
        """count numbers of a type from this byte on, a raw vector."""
        return self.k.builder.load(self._element(offset), align=1, typ=ir.VectorType(kind, count))

    def half(self, offset: Value | int) -> Value:
        """The float16 at this byte, in every lane."""
        raw = self.k.builder.load(self._element(offset), align=1, typ=I16)
        return _widened_halves(self.k, self.k.broadcast_ir(raw))


def weights(k: Kernel, name: str, kind: str) -> Pointer:
    """A kernel's matrix: kind is a dtype's name or a format's."""
    plain = k.pointer(name, "int8" if kind in blocks.BYTES else kind)
    return BlockPointer(k, kind, plain.address) if kind in blocks.BYTES else plain


def row_bytes(weight: Pointer, columns: int) -> int:
    return blocks.row_bytes(weight.format, columns) if isinstance(weight, BlockPointer) else columns * weight.bytes


class Vectors:
    """What a row of the matrix is multiplied with, some texts: x (texts, columns), x_row elements from one text to the next.

    Of four-bit formats in scratch: the 16-bit numbers in the order in which ``_numbers`` gives the weights', the scale of every block,
    and for the format's zero or minimum a vector for every block, whose lanes add up to what that needs.
    """

    def __init__(self, k: Kernel, format: str, x: Pointer, columns: int, texts: int, x_row: int) -> None:
        self.k, self.format, self.x, self.x_row = k, format, x, x_row
        self.count, self.columns = columns // SIZE, columns
        if format != "q8_0":
            self.numbers, self.steps = k.scratch(texts * columns // 2), k.scratch(texts * self.count)
            self.extra = k.scratch(texts * self.count * k.width)
            with k.loop(0, texts) as text, k.loop(0, self.count) as block:
                self._round(text, block)

    def _round(self, text: Value, block: Value) -> None:
        k, at = self.k, text * self.x_row + block * SIZE
        parts = [self.x.load(at + i) for i in range(0, SIZE, k.width)]
        largest = parts[0] * 0.0
        for part in parts:
            largest = k.maximum(largest, _absolute(k, part))
        most = _largest_lane(k, largest)
        step, inverse = most * (1.0 / LARGEST), k.select(most > 0.0, LARGEST / most, 0.0)
        kind, wide = ir.VectorType(I16, k.width), ir.VectorType(I32, k.width)
        place = self._at(text, block)
        for index, part in enumerate(parts):
            nearest = k.intrinsic(f"llvm.nearbyint.v{k.width}f32", part.ir.type, part * inverse)
            number = k.builder.trunc(k.builder.fptosi(nearest.ir, wide), kind)
            k.builder.store(number, k.builder.gep(place, [ir.Constant(I32, index * k.width)], source_etype=I16), align=2)
        self.steps.store_scalar(text * self.count + block, k.wrap(k.builder.extract_element(step.ir, I32(0))))
        ones = -8 if self.format == "q4_0" else 1
        constant = ir.Constant(ir.VectorType(I16, 2 * k.width), [ones] * (2 * k.width))
        total = _sum_of_products(k, [constant] * (SIZE // (2 * k.width)), self._rounded(text, block))
        value = total if self.format == "q4_0" else k.builder.fmul(k.builder.sitofp(total, part.ir.type), step.ir)
        k.builder.store(value, self.extra._element((text * self.count + block) * k.width), align=4)

    def _at(self, text: Value, block: Value) -> Any:
        return self.k.builder.gep(self.numbers.address, [(text * self.columns + block * SIZE).ir], source_etype=I16)

    def _rounded(self, text: Value, block: Value) -> list[Any]:
        k, place, lanes = self.k, self._at(text, block), 2 * self.k.width
        kind = ir.VectorType(I16, lanes)
        starts = [k.builder.gep(place, [ir.Constant(I32, start)], source_etype=I16) for start in range(0, SIZE, lanes)]
        return [k.builder.load(start, align=2, typ=kind) for start in starts]

    def _extra_of(self, text: Value, block: Value, element: ir.Type) -> Any:
        k = self.k
        address = self.extra._element((text * self.count + block) * k.width)
        return k.builder.load(address, align=4, typ=ir.VectorType(element, k.width))

    def add(self, total: Variable, weight: Weights, text: Value, block: Value) -> None:
        """total += what the lanes of a block's product are."""
        k = self.k
        if self.format == "q8_0":
            sums: Value | None = None
            for index, part in enumerate(weight.widened):
                x = self.x.load(text * self.x_row + block * SIZE + index * k.width)
                sums = part * x if sums is None else part * x + sums
            assert sums is not None
            total.set(sums * weight.scale + total.value)
            return
        start = self._extra_of(text, block, I32) if self.format == "q4_0" else None
        whole = _sum_of_products(k, weight.numbers, self._rounded(text, block), start)
        product = k.wrap(k.builder.sitofp(whole, ir.VectorType(F32, k.width)))
        total.set(product * (weight.scale * self.steps.broadcast(text * self.count + block)) + total.value)
        if weight.low is not None:
            total.set(weight.low * k.wrap(self._extra_of(text, block, F32)) + total.value)


class Weights:
    """A block of a row: its numbers, as the format has them, loaded once for all texts."""

    def __init__(self, weight: BlockPointer, block: Value) -> None:
        k, at = weight.k, block * weight.block
        self.low: Value | None = None
        self.numbers: list[Any] = []
        self.widened: list[Value] = []
        if weight.format == "q8_0":
            self.widened = [_widened(k, weight.part(at + 2 + i, k.width), True) for i in range(0, SIZE, k.width)]
            self.scale = weight.half(at)
            return
        start = 2
        if weight.format == "q4_1":
            start = 4
            self.scale, self.low = _scale_and_low(k, weight, at)
        else:
            self.scale = weight.half(at)
        self.numbers = _numbers(k, weight, at + start)


def matvec(
    k: Kernel, weight: BlockPointer, x: Pointer, columns: int, rows: tuple[Value, Value], texts: tuple[int, int, int],
    use: Callable[[Value, Value, Value], None], x_row: int, ahead: int,
) -> None:  # fmt: skip
    """See decode_kernels.matvec. rows: [first, past). texts: how many; of a group; rows that one group after another multiplies.
    ahead: bytes between what is read and what is fetched."""
    vectors = Vectors(k, weight.format, x, columns, texts[0], x_row)
    count, width = columns // SIZE, row_bytes(weight, columns)
    unroll = next(n for n in (4, 2, 1) if count % n == 0)

    def sums_of(row: Value, text: Value, together: int, prefetch: bool) -> None:
        start = BlockPointer(k, weight.format, weight.at(row * width).address)
        totals = [[k.variable(0.0) for _ in range(min(unroll, 2))] for _ in range(together)]
        with k.loop(0, count, unroll) as block:
            for byte in range(0, unroll * weight.block if prefetch else 0, 64):
                start.prefetch(block * weight.block + (ahead + byte))
            for offset in range(unroll):
                part = Weights(start, block + offset)
                for i, chains in enumerate(totals):
                    vectors.add(chains[offset % len(chains)], part, text + i, block + offset)
        for i, chains in enumerate(totals):
            lanes = chains[0].value
            for other in chains[1:]:
                lanes = lanes + other.value
            use(row, text + i, k.sum_lanes(lanes))

    (first, past), (number, group, together) = rows, texts
    whole, rest = number // group * group, number % group
    with k.loop(first, past, together) as begin:
        end = k.minimum(begin + together, past)
        if rest:
            with k.loop(begin, end) as row:
                sums_of(row, k.integer(whole), rest, True)
        if whole:
            with k.loop(0, whole, group) as text, k.loop(begin, end) as row:
                sums_of(row, text, group, not rest)


def widened_block(k: Emitter, weight: BlockPointer, block: Value) -> list[Value]:
    """The 32 weights of a block in float32, vectors in order."""
    at = block * weight.block
    scale = weight.half(at)
    if weight.format == "q8_0":
        return [_widened(k, weight.part(at + 2 + i, k.width), True) * scale for i in range(0, SIZE, k.width)]
    start, low = (4, weight.half(at + 2)) if weight.format == "q4_1" else (2, scale * -8.0)
    halves: list[list[Value]] = [[], []]
    lanes = min(k.width, SIZE // 2)
    kind = ir.VectorType(I8, lanes)
    for i in range(0, SIZE // 2, lanes):
        raw = weight.part(at + start + i, lanes)
        numbers = k.builder.and_(raw, ir.Constant(kind, [15] * lanes)), k.builder.lshr(raw, ir.Constant(kind, [4] * lanes))
        for half, number in zip(halves, numbers):
            half.append(_widened(k, number, False) * scale + low)
    return halves[0] + halves[1]


def _numbers(k: Emitter, weight: BlockPointer, at: Value) -> list[Any]:
    """Four-bit numbers as vectors of 2 * width 16-bit ones: 0 to 15, in the order of the weights."""
    lanes = min(2 * k.width, 16)
    kind = ir.VectorType(I16, lanes)
    low, high = [], []
    for i in range(0, SIZE // 2, lanes):
        pairs = k.builder.zext(weight.part(at + i, lanes), kind)
        low.append(k.builder.and_(pairs, ir.Constant(kind, [15] * lanes)))
        high.append(k.builder.lshr(pairs, ir.Constant(kind, [4] * lanes)))
    if 2 * k.width == SIZE:
        return [k.builder.shuffle_vector(low[0], high[0], ir.Constant(ir.VectorType(I32, SIZE), list(range(SIZE))))]
    return low + high


def _scale_and_low(k: Emitter, weight: BlockPointer, at: Value) -> tuple[Value, Value]:
    """Both halves by one load: they stand side by side, so that every second lane is a scale and the others are minima."""
    both = k.builder.load(weight._element(at), align=1, typ=I32)
    half = ir.VectorType(I32, k.width // 2)
    first = k.builder.insert_element(ir.Constant(half, ir.Undefined), both, I32(0))
    every = k.builder.shuffle_vector(first, ir.Constant(half, ir.Undefined), ir.Constant(half, [0] * (k.width // 2)))
    lanes = _widened_halves(k, k.builder.bitcast(every, ir.VectorType(I16, k.width))).ir
    picks = ([lane // 2 * 2 + which for lane in range(k.width)] for which in range(2))
    masks = [ir.Constant(ir.VectorType(I32, k.width), pick) for pick in picks]
    scale, low = (k.wrap(k.builder.shuffle_vector(lanes, lanes, mask)) for mask in masks)
    return scale, low


def _widened_halves(k: Emitter, raw: Any) -> Value:
    halves = k.builder.bitcast(raw, ir.VectorType(F16, k.width))
    return k.wrap(k.builder.fpext(halves, ir.VectorType(F32, k.width)))


def _widened(k: Emitter, raw: Any, signed: bool) -> Value:
    wide = ir.VectorType(I32, k.width)
    numbers = k.builder.sext(raw, wide) if signed else k.builder.zext(raw, wide)
    return k.wrap(k.builder.sitofp(numbers, ir.VectorType(F32, k.width)))


def _sum_of_products(k: Emitter, left: list[Any], right: list[Any], start: Any = None) -> Any:
    """start + left . right as 32-bit lanes; left, right: vectors of 2 * width 16-bit numbers."""
    total = start
    for a, b in zip(left, right):
        product = _pairs(k, a, b)
        total = product if total is None else k.builder.add(total, product)
    return total


def _pairs(k: Emitter, a: Any, b: Any) -> Any:
    """Products of 2 * width 16-bit numbers, two added to a lane."""
    wide = ir.VectorType(I32, k.width)
    if "86" in k.target.triple:
        name = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}[k.width]
        return k.intrinsic(name, wide, a, b).ir
    halves = []
    for start in (0, k.width):
        mask = ir.Constant(wide, list(range(start, start + k.width)))
        parts = (k.builder.sext(k.builder.shuffle_vector(x, x, mask), wide) for x in (a, b))
        halves.append(k.builder.mul(*parts))
    return k.builder.add(*halves)


def _absolute(k: Emitter, x: Value) -> Value:
    return k.intrinsic(f"llvm.fabs.v{k.width}f32", x.ir.type, x)


def _largest_lane(k: Emitter, x: Value) -> Value:
    """In every lane."""
    distance = k.width // 2
    while distance:
        mask = ir.Constant(ir.VectorType(I32, k.width), [lane ^ distance for lane in range(k.width)])
        x = k.maximum(x, k.wrap(k.builder.shuffle_vector(x.ir, x.ir, mask)))
        distance //= 2
    return x

"""The matrix product of many rows with a layer's weights, straight from 16-bit or int8 weights or from blocks, in float32.

A task takes a block of the output's columns. It widens and transposes their weights once, into panels of a few columns that the second
cache holds, and multiplies every row with them; a tile of sums stays in registers over the whole depth (Goto and van de Geijn, "Anatomy
of High-Performance Matrix Multiplication", 2008).
"""

from __future__ import annotations

from anymamba.backends.cpu import blocks
from anymamba.backends.cpu.decode.decode_kernels import TEXTS as TEXTS
from anymamba.backends.cpu.decode.decode_kernels import matvec
from anymamba.backends.cpu.jit.emit import Kernel, Value
from anymamba.backends.cpu.jit.memory import Pointer
from anymamba.backends.cpu.jit.target import Target
from anymamba.backends.cpu.ssd.ssd_tiles import transposed

UNROLL = 4
"""Steps of the depth in one round of the innermost loop."""


def tile_rows(target: Target) -> int:
    """Rows of a tile: with two vectors a row, as many as fit into the registers beside the operands (16 on AVX2 and SSE, else 32)."""
    return 12 if target.width == 16 else 6 if "86" in target.triple else 8


def panel_columns(target: Target) -> int:
    """Columns of a panel, which are those of a tile."""
    return 2 * target.width


def product(k: Kernel, weight_dtype: str, weights_in_rows: bool, out_dtype: str, has_scale: bool, has_bias: bool, room: int) -> None:
    """out[r, c] = scale[c] * (sum over i of a[r, i] * weight(c, i)) + bias[c].

    a (rows, depth) float32 with rows side by side; out (rows, columns). weight(c, i) lies at c * weight_row + i where
    ``weights_in_rows``, at i * weight_row + c otherwise; of blocks weight_row is in bytes. Task: (block of
    rows, block of ``task_columns`` columns, a multiple of panel_columns). room: float32 of scratch, at least task_columns * depth.
    """
    a, weight, out = k.pointer("a", "float32"), blocks.weights(k, "weight", weight_dtype), k.pointer("out", out_dtype)
    scale, bias = k.pointer("scale", "float32"), k.pointer("bias", "float32")
    rows, columns, depth = k.size("rows"), k.size("columns"), k.size("depth")
    a_row, weight_row, out_row = k.size("a_row"), k.size("weight_row"), k.size("out_row")
    task_columns, column_tasks, task_rows = k.size("task_columns"), k.size("column_tasks"), k.size("task_rows")
    first_column = k.task % column_tasks * task_columns
    past_column = k.minimum(first_column + task_columns, columns)
    first_row = k.task / column_tasks * task_rows
    past_row = k.minimum(first_row + task_rows, rows)
    panels, wide = k.scratch(room), panel_columns(k.target)
    with k.loop(first_column, past_column, wide) as column:
        panel = panels.at((column - first_column) * depth)
        if isinstance(weight, blocks.BlockPointer):
            _pack_blocks(k, panel, weight, weight_row, column, columns, depth)
        elif weights_in_rows:
            _pack_rows(k, panel, weight, weight_row, column, columns, depth)
        else:
            _pack_columns(k, panel, weight, weight_row, column, columns, depth)
    tall = tile_rows(k.target)
    with k.loop(first_row, past_row, tall) as row:
        # rows past the last are the last once more: they are computed and written twice, with equal results
        lines = [k.minimum(row + i, past_row - 1) for i in range(tall)]
        with k.loop(first_column, past_column, wide) as column:
            sums = _tile(k, [a.at(line * a_row) for line in lines], panels.at((column - first_column) * depth), depth)
            for j in range(2):
                c = column + j * k.width
                left = columns - c
                with k.if_(left > 0):
                    factor = scale.load(c, left) if has_scale else None
                    offset = bias.load(c, left) if has_bias else None
                    for line, total in zip(lines, sums):
                        y = total[j] if factor is None else total[j] * factor
                        out.store(line * out_row + c, y if offset is None else y + offset, left)


def _tile(k: Kernel, lines: list[Pointer], panel: Pointer, depth: Value) -> list[tuple[Value, Value]]:
    """The sums over the depth of every line of a with the panel [depth, 2 * width]."""
    sums = [(k.variable(0.0), k.variable(0.0)) for _ in lines]
    whole = depth / UNROLL * UNROLL

    def step(i: Value) -> None:
        right = [panel.load(i * (2 * k.width) + j * k.width) for j in range(2)]
        for line, totals in zip(lines, sums):
            left = line.broadcast(i)
            for total, vector in zip(totals, right):
                total.set(total.value + left * vector)

    with k.loop(0, whole, UNROLL) as i:
        for offset in range(UNROLL):
            step(i + offset)
    with k.loop(whole, depth) as i:
        step(i)
    return [(low.value, high.value) for low, high in sums]


def _pack_rows(k: Kernel, panel: Pointer, weight: Pointer, weight_row: Value, column: Value, columns: Value, depth: Value) -> None:
    """panel[i, j] = weight[column + j, i]. Columns past the last repeat it: their sums are not written."""
    for group in range(2):
        rows = [weight.at(k.minimum(column + (group * k.width + j), columns - 1) * weight_row) for j in range(k.width)]
        whole = depth / k.width * k.width
        with k.loop(0, whole, k.width) as i:
            square = transposed(k, [row.load(i).ir for row in rows])
            for lane, vector in enumerate(square):
                panel.store((i + lane) * (2 * k.width) + group * k.width, k.wrap(vector))
        with k.loop(whole, depth) as i:
            for j, row in enumerate(rows):
                panel.store_scalar(i * (2 * k.width) + (group * k.width + j), row.scalar(i))


def _pack_blocks(
    k: Kernel, panel: Pointer, weight: blocks.BlockPointer, weight_row: Value, column: Value, columns: Value, depth: Value
) -> None:
    """``_pack_rows`` of weights in blocks, a block of every row at a time."""
    for group in range(2):
        numbers = [k.minimum(column + (group * k.width + j), columns - 1) for j in range(k.width)]
        rows = [blocks.BlockPointer(k, weight.format, weight.at(number * weight_row).address) for number in numbers]
        with k.loop(0, depth / blocks.SIZE) as block:
            lines = [blocks.widened_block(k, row, block) for row in rows]
            for part, vectors in enumerate(zip(*lines)):
                square = transposed(k, [vector.ir for vector in vectors])
                for lane, vector in enumerate(square):
                    i = block * blocks.SIZE + (part * k.width + lane)
                    panel.store(i * (2 * k.width) + group * k.width, k.wrap(vector))


def few_rows(k: Kernel, weight_format: str, out_dtype: str, has_scale: bool, has_bias: bool, rows: int, depth: int, tasks: int) -> None:
    """The same for 1 to TEXTS rows and weights in blocks, where widening them into a panel would cost more than the product. Task: a
    share of the columns. a (rows, depth), out (rows, columns), both contiguous."""
    a, weight, out = k.pointer("a", "float32"), blocks.weights(k, "weight", weight_format), k.pointer("out", out_dtype)
    scale, bias, columns = k.pointer("scale", "float32"), k.pointer("bias", "float32"), k.size("columns")
    size = (columns + (tasks - 1)) / tasks
    first = k.minimum(k.task * size, columns)

    def write(column: Value, row: Value, value: Value) -> None:
        value = value * scale.scalar(column) if has_scale else value
        out.store_scalar(row * columns + column, value + bias.scalar(column) if has_bias else value)

    matvec(k, weight, None, a, depth, first, k.minimum(first + size, columns), rows, write)


def _pack_columns(k: Kernel, panel: Pointer, weight: Pointer, weight_row: Value, column: Value, columns: Value, depth: Value) -> None:
    """panel[i, j] = weight[i, column + j], zero past the last column."""
    with k.loop(0, depth) as i:
        for group in range(2):
            c = column + group * k.width
            panel.store(i * (2 * k.width) + group * k.width, weight.load(i * weight_row + c, k.maximum(columns - c, 0)))

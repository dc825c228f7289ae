"""Kernels of layer norm and RMS norm with the residual sum before them. A task is a block of rows, which stay in cache between passes."""

from __future__ import annotations

from collections.abc import Callable

from anymamba.backends.cpu.jit.emit import Kernel, Value
from anymamba.backends.cpu.jit.lanes import Left, lanes_below, over_channels
from anymamba.backends.cpu.jit.values import F32, I32
from anymamba.backends.cpu.jit.vecmath import sqrt


def first_lane(k: Kernel, vector: Value) -> Value:
    return k.wrap(k.builder.extract_element(vector.ir, I32(0)))


Row = Callable[[Value, Left], Value]
"""(first channel, how many are left or None) to a vector."""


def statistics(k: Kernel, row: Row, dim: Value, eps: Value, centred: bool) -> tuple[Value, Value]:
    """(mean, 1 / sqrt(mean square + eps)) of a row in every lane; mean 0 unless centred. The variance is that of centred values."""
    count = k.wrap(k.builder.sitofp(dim.ir, eps.ir.type))
    mean = k.vector(0.0)
    if centred:
        mean = k.vector(_sum(k, dim, row) / count)

    def square(c: Value, left: Left) -> Value:
        value = row(c, left) - mean
        if left is not None and centred:
            value = k.select(lanes_below(k, left), value, 0.0)
        return value * value

    return mean, 1.0 / sqrt(k.vector(_sum(k, dim, square) / count + eps))


def _sum(k: Kernel, dim: Value, row: Row) -> Value:
    """Four sums that do not wait for each other, then their sum over the lanes. Past the end a row reads zeros."""
    sums = [k.variable(0.0) for _ in range(4)]
    step = 4 * k.width
    whole = dim / step * step
    with k.loop(0, whole, step) as c:
        for i, total in enumerate(sums):
            total.add(row(c + i * k.width, None))
    over_channels(k, whole, dim, lambda c, left: sums[0].add(row(c, left)))
    return k.sum_lanes((sums[0].value + sums[1].value) + (sums[2].value + sums[3].value))


def forward(k: Kernel, x: str, weight: str, bias: str | None, residual: str | None, total: str | None, keeps: bool, centred: bool) -> None:
    """y like x, and the sum of x and residual if ``total``; each option but the last two is a dtype, None: not there.
    keeps: mean and reciprocal deviation of each row (rows, 2)."""
    dim, rows, block, eps = k.size("dim"), k.size("rows"), k.size("block"), k.number("eps")
    weights = k.pointer("weight", weight)
    biases = None if bias is None else k.pointer("bias", bias)
    x_row = k.size("x_row")
    residual_row = None if residual is None else k.size("residual_row")
    pointers = {name: k.pointer(name, dtype) for name, dtype in (("x", x), ("y", x), ("residual", residual), ("total", total)) if dtype}
    row_statistics = k.pointer("statistics", "float32") if keeps else None
    first = k.task * block
    with k.loop(first, k.minimum(first + block, rows)) as r:
        x_here, y_here = pointers["x"].at(r * x_row), pointers["y"].at(r * dim)
        residual_here = None if residual_row is None else pointers["residual"].at(r * residual_row)

        def row(c: Value, left: Left) -> Value:
            value = x_here.load(c, left)
            return value if residual_here is None else value + residual_here.load(c, left)

        mean, factor = statistics(k, row, dim, eps, centred)
        if row_statistics is not None:
            for i, value in enumerate((mean, factor)):
                row_statistics.store_scalar(r * 2 + i, first_lane(k, value))

        def write(c: Value, left: Left) -> None:
            value = row(c, left)
            if total is not None:
                pointers["total"].store(r * dim + c, value, left)
            y = (value - mean) * factor * weights.load(c, left)
            y_here.store(c, y if biases is None else y + biases.load(c, left), left)

        over_channels(k, 0, dim, write)


def backward(
    k: Kernel, row: str, gradient: str, weight: str, bias: bool, residual: str | None, dtotal: str | None, dresidual: str | None,
    centred: bool,
) -> None:  # fmt: skip
    """dx of dtype ``gradient``, like dy, and, if its dtype is given, dresidual; dweight, and dbias if bias, (tasks, dim).

    The normalised row is x, of dtype ``row``, plus residual if its dtype is given. dtotal: dtype of the gradient that reaches that sum
    directly, or None. With n the normalised row and g = dy * weight: dx = (g - mean(g) - n * mean(g * n)) / deviation + dtotal, mean(g)
    only where the mean was subtracted."""
    dim, rows, block, x_row = (k.size(name) for name in ("dim", "rows", "block", "x_row"))
    residual_row = None if residual is None else k.size("residual_row")
    dtypes = {"x": row, "residual": residual, "dy": gradient, "dx": gradient, "dtotal": dtotal, "dresidual": dresidual}
    pointers = {name: k.pointer(name, dtype) for name, dtype in dtypes.items() if dtype}
    weights, row_statistics = k.pointer("weight", weight), k.pointer("statistics", "float32")
    dweight = k.pointer("dweight", "float32").at(k.task * dim)
    dbias = k.pointer("dbias", "float32").at(k.task * dim) if bias else None
    sums = [dweight] if dbias is None else [dweight, dbias]
    for total in sums:
        over_channels(k, 0, dim, lambda c, left, total=total: total.store(c, k.vector(0.0), left))  # type: ignore[misc]
    first = k.task * block
    with k.loop(first, k.minimum(first + block, rows)) as r:
        here = {name: pointer.at(r * dim) for name, pointer in pointers.items()}
        here["x"] = pointers["x"].at(r * x_row)
        if residual_row is not None:
            here["residual"] = pointers["residual"].at(r * residual_row)
        mean, factor = row_statistics.broadcast(r * 2), row_statistics.broadcast(r * 2 + 1)
        along, plain = k.variable(0.0), k.variable(0.0)

        def centre(c: Value, left: Left) -> Value:
            value = here["x"].load(c, left)
            if residual is not None:
                value = value + here["residual"].load(c, left)
            return value - mean if centred else value

        def add_up(c: Value, left: Left) -> None:
            value, dy = centre(c, left), here["dy"].load(c, left)
            scaled = dy * weights.load(c, left)
            along.add(scaled * value)
            plain.add(scaled)
            dweight.store(c, dweight.load(c, left) + dy * (value * factor), left)
            if dbias is not None:
                dbias.store(c, dbias.load(c, left) + dy, left)

        over_channels(k, 0, dim, add_up)
        count = k.wrap(k.builder.sitofp(dim.ir, F32))
        # of the values before scaling: one rounding less where nearly all cancels
        share = k.vector(k.sum_lanes(along.value) / count) * factor * factor
        level = k.vector(k.sum_lanes(plain.value) / count) if centred else None

        def write(c: Value, left: Left) -> None:
            value = here["dy"].load(c, left) * weights.load(c, left) - centre(c, left) * share
            if level is not None:
                value = value - level
            value = value * factor
            if dtotal is not None:
                value = value + here["dtotal"].load(c, left)
            here["dx"].store(c, value, left)
            if dresidual is not None:
                here["dresidual"].store(c, value, left)

        over_channels(k, 0, dim, write)

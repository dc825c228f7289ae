"""Kernels of the gated norms: norm(x) * silu(z), or norm(x * silu(z)), over groups of channels. A task is a block of rows."""

from __future__ import annotations

from anymamba.backends.cpu.jit.emit import Kernel, Value
from anymamba.backends.cpu.jit.lanes import Left, over_channels
from anymamba.backends.cpu.jit.values import F32
from anymamba.backends.cpu.jit.vecmath import sigmoid, silu
from anymamba.backends.cpu.norm.norm_kernels import first_lane, statistics


def forward(
    k: Kernel, x: str, weight: str, bias: str | None, z: str | None, gate_first: bool, keeps: bool, centred: bool, room: int
) -> None:
    """y (rows, dim) like x; x, weight, bias, z are dtypes. keeps: mean and reciprocal deviation (rows, groups, 2) are written.
    room: of scratch, at least a group."""
    dim, rows, groups, block, x_row, eps = *(k.size(n) for n in ("dim", "rows", "groups", "block", "x_row")), k.number("eps")
    size = dim / groups
    dtypes = {"x": x, "y": x, "weight": weight, "bias": bias, "z": z, "statistics": "float32" if keeps else None}
    pointers = {name: k.pointer(name, dtype) for name, dtype in dtypes.items() if dtype}
    z_row = k.size("z_row") if z else None
    gated = k.scratch(room)
    first = k.task * block
    with k.loop(first, k.minimum(first + block, rows)) as r, k.loop(0, groups) as group:
        offset = group * size
        x_here, y_here = pointers["x"].at(r * x_row + offset), pointers["y"].at(r * dim + offset)
        weights = pointers["weight"].at(offset)
        biases = pointers["bias"].at(offset) if bias else None
        z_here = None if z_row is None else pointers["z"].at(r * z_row + offset)
        source = x_here
        if z_here is not None and gate_first:
            over_channels(k, 0, size, lambda c, left: gated.store(c, x_here.load(c, left) * silu(z_here.load(c, left)), left))
            source = gated
        mean, factor = statistics(k, source.load, size, eps, centred)
        if keeps:
            for i, value in enumerate((mean, factor)):
                pointers["statistics"].store_scalar((r * groups + group) * 2 + i, first_lane(k, value))

        def write(c: Value, left: Left) -> None:
            y = (source.load(c, left) - mean) * factor * weights.load(c, left)
            if biases is not None:
                y = y + biases.load(c, left)
            if z_here is not None and not gate_first:
                y = y * silu(z_here.load(c, left))
            y_here.store(c, y, left)

        over_channels(k, 0, size, write)


def backward(
    k: Kernel, x: str, weight: str, bias: str | None, z: str | None, gate_first: bool, centred: bool, room: int
) -> None:
    """dx like x, dz like z, both (rows, dim); dweight, and dbias if bias, (tasks, dim) float32: of the task's rows.

    v: what is normalised, n: normalised, d: the gradient that reaches norm's output; dv as in norm_kernels.backward."""
    dim, rows, groups, block, x_row = (k.size(name) for name in ("dim", "rows", "groups", "block", "x_row"))
    size = dim / groups
    dtypes = {"x": x, "dy": x, "dx": x, "weight": weight, "bias": bias, "z": z, "dz": z, "statistics": "float32"}
    pointers = {name: k.pointer(name, dtype) for name, dtype in dtypes.items() if dtype}
    z_row = k.size("z_row") if z else None
    dweight = k.pointer("dweight", "float32").at(k.task * dim)
    dbias = k.pointer("dbias", "float32").at(k.task * dim) if bias else None
    centre, scaled = k.scratch(room), k.scratch(room)
    count = k.wrap(k.builder.sitofp(size.ir, F32))
    for total in (dweight, dbias):
        if total is not None:
            over_channels(k, 0, dim, lambda c, left, total=total: total.store(c, k.vector(0.0), left))  # type: ignore[misc]
    first = k.task * block
    with k.loop(first, k.minimum(first + block, rows)) as r, k.loop(0, groups) as group:
        offset = group * size
        x_here = pointers["x"].at(r * x_row + offset)
        z_here = None if z_row is None else pointers["z"].at(r * z_row + offset)
        here = {name: pointers[name].at(r * dim + offset) for name in ("dy", "dx", "dz") if name in pointers}
        weights, dweights = pointers["weight"].at(offset), dweight.at(offset)
        statistic = pointers["statistics"].at((r * groups + group) * 2)
        mean, factor = statistic.broadcast(0), statistic.broadcast(1)
        along, plain = k.variable(0.0), k.variable(0.0)

        def add_up(c: Value, left: Left) -> None:
            value, d, scale = x_here.load(c, left), here["dy"].load(c, left), weights.load(c, left)
            if z_here is not None:
                gate = z_here.load(c, left)
                s = sigmoid(gate)
                if gate_first:
                    value = value * (gate * s)
            value = value - mean if centred else value
            n = value * factor
            if z_here is not None and not gate_first:
                out = n * scale
                if bias:
                    out = out + pointers["bias"].load(offset + c, left)
                here["dz"].store(c, d * out * (s * (1.0 + gate * (1.0 - s))), left)
                d = d * (gate * s)
            g = d * scale
            along.add(g * value)
            plain.add(g)
            centre.store(c, value, left)
            scaled.store(c, g, left)
            dweights.store(c, dweights.load(c, left) + d * n, left)
            if dbias is not None:
                dbias.store(offset + c, dbias.load(offset + c, left) + d, left)

        over_channels(k, 0, size, add_up)
        share = k.vector(k.sum_lanes(along.value) / count) * factor * factor
        level = k.vector(k.sum_lanes(plain.value) / count) if centred else None

        def write(c: Value, left: Left) -> None:
            value = scaled.load(c, left) - centre.load(c, left) * share
            if level is not None:
                value = value - level
            value = value * factor
            if z_here is not None and gate_first:
                gate = z_here.load(c, left)
                s = sigmoid(gate)
                here["dz"].store(c, value * x_here.load(c, left) * (s * (1.0 + gate * (1.0 - s))), left)
                value = value * (gate * s)
            here["dx"].store(c, value, left)

        over_channels(k, 0, size, write)

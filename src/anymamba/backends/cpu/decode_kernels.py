"""Kernels of one decoding step for one text: matrix times vector fused with what stands before and after it.

A step is bound by reading the weights, so each weight is read once, in long runs, and everything else happens on vectors that
stay in the nearest cache. Vectors are float32; weights are float32, bfloat16, float16, or int8 with one scale a row.
Every kernel's task is a share of the rows of its matrix; what all shares need (a norm) each computes for itself, which costs
less than waiting for another.
"""

from __future__ import annotations

from collections.abc import Callable

from anymamba.backends.cpu.emit import Kernel, Value
from anymamba.backends.cpu.memory import Pointer
from anymamba.backends.cpu.vecmath import LOG2E, exp2, silu, softplus, sqrt

CHAINS = 2
"""Independent sums along a row, to hide the latency of an addition. One row at a time: the memory then sees a single run of
addresses, which it delivers twice as fast as four."""

AHEAD = 4096
"""Bytes between the weight that is read and the one that is fetched: rows are short, and the hardware's prefetcher starts anew
at each."""


def share(k: Kernel, count: int, tasks: int, unit: int = 1) -> tuple[Value, Value]:
    """[first, past) of this task's part of ``count`` items; all parts but the last are whole multiples of ``unit``."""
    size = -(-count // (tasks * unit)) * unit
    first = k.minimum(k.task * size, count)
    return first, k.minimum(first + size, count)


def rms_scale(k: Kernel, x: Pointer, start: int, count: int, eps: float) -> Value:
    """1 / rms of x[start : start + count], as a vector of equal lanes."""
    total = k.variable(0.0)
    with k.loop(0, count, k.width) as i:
        v = x.load(k.integer(start) + i, _left(k, count, i))
        total.set(v * v + total.value)
    mean = k.vector(k.sum_lanes(total.value)) * (1.0 / count)
    return 1.0 / sqrt(mean + eps)


def rms_norm(k: Kernel, x: Pointer, weight: Pointer | None, out: Pointer, size: int, eps: float, groups: int = 1) -> None:
    """out = x / rms(x) * weight over each group of size / groups elements."""
    count = size // groups
    for start in range(0, size, count):
        scale = rms_scale(k, x, start, count, eps)
        with k.loop(0, count, k.width) as i:
            left, at = _left(k, count, i), k.integer(start) + i
            value = x.load(at, left) * scale
            out.store(at, value if weight is None else value * weight.load(at, left), left)


def matvec(
    k: Kernel, weight: Pointer, scale: Pointer | None, x: Pointer, columns: int, first: Value, past: Value,
    use: Callable[[Value, Value], None],
) -> None:  # fmt: skip
    """use(row, weight[row] . x) for each row of [first, past); x is float32 of ``columns``; scale: (rows,) of an int8 weight."""

    chains = next(n for n in (CHAINS, 1) if columns % (n * k.width) == 0 or n == 1)
    with k.loop(first, past) as row:
        start = weight.at(row * columns)
        sums = [k.variable(0.0) for _ in range(chains)]
        with k.loop(0, columns, chains * k.width) as c:
            for byte in range(0, chains * k.width * weight.bytes, 64):
                start.prefetch(c + (AHEAD + byte) // weight.bytes)
            for chain, total in enumerate(sums):
                at = c + chain * k.width
                left = _left(k, columns, c)
                total.set(start.load(at, left) * x.load(at, left) + total.value)
        lanes = sums[0].value
        for other in sums[1:]:
            lanes = lanes + other.value
        value = k.sum_lanes(lanes)
        use(row, value if scale is None else value * scale.scalar(row))


def _left(k: Kernel, count: int, i: Value) -> Value | None:
    """Elements left at i, where ``count`` is no whole number of vectors."""
    return None if count % k.width == 0 else count - i


def _scale(k: Kernel, name: str, dtype: str) -> Pointer | None:
    return k.pointer(name, "float32") if dtype == "int8" else None


def project_in(
    k: Kernel, dtype: str, d_model: int, parts: tuple[tuple[int, bool], ...], taps: int, bias: bool, conv_bias: bool,
    eps: float, tasks: int,
) -> None:  # fmt: skip
    """out = in_proj(rms_norm(hidden)), the part marked so then through the causal convolution and SiLU.

    parts: (rows, convolved) of each part of the projection, in its order. conv_state: (taps - 1, channels), oldest first;
    conv_weight: (taps, channels): channels lie side by side, as the lanes do.
    """
    hidden, norm, weight = k.pointer("hidden", "float32"), k.pointer("norm", "float32"), k.pointer("weight", dtype)
    scale, out = _scale(k, "scale", dtype), k.pointer("out", "float32")
    extra = k.pointer("bias", "float32") if bias else None
    state, taps_weight = k.pointer("conv_state", "float32"), k.pointer("conv_weight", "float32")
    taps_bias = k.pointer("conv_bias", "float32") if conv_bias else None
    normed = k.scratch(d_model)
    rms_norm(k, hidden, norm, normed, d_model, eps)

    def write(row: Value, value: Value) -> None:
        out.store_scalar(row, value if extra is None else value + extra.scalar(row))

    start = 0
    for rows, convolved in parts:
        first, past = share(k, rows, tasks, k.width)
        matvec(k, weight, scale, normed, d_model, first + start, past + start, write)
        if convolved:
            with k.loop(first, past, k.width) as c:
                left = past - c
                window = [state.load(c + t * rows, left) for t in range(taps - 1)] + [out.load(c + start, left)]
                total = k.vector(0.0) if taps_bias is None else taps_bias.load(c, left)
                for t, value in enumerate(window):
                    total = taps_weight.load(c + t * rows, left) * value + total
                for t in range(taps - 1):
                    state.store(c + t * rows, window[t + 1], left)
                out.store(c + start, silu(total), left)
        start += rows


def project(k: Kernel, dtype: str, rows: int, columns: int, tasks: int) -> None:
    """out = weight . x."""
    x, weight, scale = k.pointer("x", "float32"), k.pointer("weight", dtype), _scale(k, "scale", dtype)
    out = k.pointer("out", "float32")
    first, past = share(k, rows, tasks)
    matvec(k, weight, scale, x, columns, first, past, out.store_scalar)


def project_out(
    k: Kernel, dtype: str, rows: int, columns: int, bias: bool, eps: float | None, groups: int, tasks: int
) -> None:
    """hidden += weight . x (+ bias), x first normed in groups where eps is given."""
    x, weight, scale = k.pointer("x", "float32"), k.pointer("weight", dtype), _scale(k, "scale", dtype)
    hidden = k.pointer("hidden", "float32")
    extra = k.pointer("bias", "float32") if bias else None
    if eps is not None:
        normed = k.scratch(columns)
        rms_norm(k, x, k.pointer("norm", "float32"), normed, columns, eps, groups)
        x = normed
    first, past = share(k, rows, tasks)

    def add(row: Value, value: Value) -> None:
        hidden.store_scalar(row, hidden.scalar(row) + (value if extra is None else value + extra.scalar(row)))

    matvec(k, weight, scale, x, columns, first, past, add)


def head(k: Kernel, dtype: str, d_model: int, vocabulary: int, eps: float, tasks: int) -> None:
    """logits = lm_head(rms_norm(hidden))."""
    hidden, norm, weight = k.pointer("hidden", "float32"), k.pointer("norm", "float32"), k.pointer("weight", dtype)
    scale, logits = _scale(k, "scale", dtype), k.pointer("logits", "float32")
    normed = k.scratch(d_model)
    rms_norm(k, hidden, norm, normed, d_model, eps)
    first, past = share(k, vocabulary, tasks)
    matvec(k, weight, scale, normed, d_model, first, past, logits.store_scalar)


def mamba1_state(
    k: Kernel, dtype: str, channels: int, rank: int, states: int, inner_eps: float | None, tasks: int
) -> None:
    """y = (C . h + D x) silu(z) with h = exp(dt A) h + dt B x and dt = softplus(dt_proj(low rank) + bias).

    low: (rank + 2 states), x_proj's output; dt_weight: (rank, channels); A2: A / ln 2 and h: (states, channels).
    inner_eps: FalconMamba's norms, without weights, of the low rank, B and C.
    """
    low, xz, y = k.pointer("low", "float32"), k.pointer("xz", "float32"), k.pointer("y", "float32")
    weight, bias, skip = k.pointer("dt_weight", dtype), k.pointer("dt_bias", "float32"), k.pointer("D", "float32")
    a2, state = k.pointer("A2", "float32"), k.pointer("state", "float32")
    if inner_eps is not None:
        normed = k.scratch(rank + 2 * states)
        for start, count in ((0, rank), (rank, states), (rank + states, states)):
            rms_norm(k, low.at(start), None, normed.at(start), count, inner_eps)
        low = normed
    first, past = share(k, channels, tasks, k.width)
    with k.loop(first, past, k.width) as c:
        left = past - c
        dt = k.variable(bias.load(c, left))
        with k.loop(0, rank) as r:
            dt.set(weight.load(c + r * channels, left) * low.broadcast(r) + dt.value)
        step = softplus(dt.value)
        x = xz.load(c, left)
        source = step * x
        total = k.variable(0.0)
        with k.loop(0, states) as n:
            at = c + n * channels
            h = state.load(at, left) * exp2(step * a2.load(at, left)) + source * low.broadcast(n + rank)
            state.store(at, h, left)
            total.set(h * low.broadcast(n + (rank + states)) + total.value)
        gated = (total.value + skip.load(c, left) * x) * silu(xz.load(c + channels, left))
        y.store(c, gated, left)


def mamba2_state(
    k: Kernel, heads: int, headdim: int, groups: int, states: int, dt_limit: tuple[float, float]
) -> None:
    """y = (C . h + D x) silu(z) with h = exp(dt A) h + dt x B; task = head. state: (heads, headdim, states)."""
    d_inner, per_group = heads * headdim, heads // groups
    projected, y, state = k.pointer("projected", "float32"), k.pointer("y", "float32"), k.pointer("state", "float32")
    a, bias, skip = k.pointer("A", "float32"), k.pointer("dt_bias", "float32"), k.pointer("D", "float32")
    z, x, B = projected, projected.at(d_inner), projected.at(2 * d_inner)
    C, dt = B.at(groups * states), B.at(2 * groups * states)
    head_, group = k.task, k.task / per_group
    step = softplus(k.vector(dt.scalar(head_)) + k.vector(bias.scalar(head_)))
    if dt_limit != (0.0, float("inf")):
        step = k.minimum(k.maximum(step, dt_limit[0]), dt_limit[1])
    decay = exp2(step * k.vector(a.scalar(head_)) * LOG2E)
    own = state.at(head_ * (headdim * states))
    with k.loop(0, headdim) as p:
        at = head_ * headdim + p
        value = k.vector(x.scalar(at))
        source = step * value
        total = k.variable(0.0)
        with k.loop(0, states, k.width) as n:
            left = _left(k, states, n)
            h = own.load(p * states + n, left) * decay + source * B.load(group * states + n, left)
            own.store(p * states + n, h, left)
            total.set(h * C.load(group * states + n, left) + total.value)
        summed = k.sum_lanes(total.value) + skip.scalar(head_) * x.scalar(at)
        y.store_scalar(at, summed)
    with k.loop(0, headdim, k.width) as p:
        left = _left(k, headdim, p)
        at = head_ * headdim + p
        y.store(at, y.load(at, left) * silu(z.load(at, left)), left)

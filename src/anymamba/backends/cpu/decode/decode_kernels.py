"""Kernels of one decoding step for one or several texts: matrix times vectors fused with what stands before and after it.

A step is bound by reading the weights, so each weight is read once for all texts, in long runs, and everything else happens on vectors
that stay in the nearest cache. Vectors are float32; weights are float32, bfloat16, float16, int8 with one scale a row,
or in blocks of 32 (blocks.py).
Every kernel's task is a share of the rows of its matrix; what all shares need (a norm) each computes for itself, which costs
less than waiting for another. A text's sums are formed in the same order however many texts there are: its bits do not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Callable

from anymamba.backends.cpu import blocks
from anymamba.backends.cpu.jit.emit import Kernel, Value
from anymamba.backends.cpu.jit.memory import Pointer
from anymamba.backends.cpu.jit.vecmath import LOG2E, exp2, silu, softplus, sqrt

CHAINS = 2
"""Independent sums along a row, to hide the latency of an addition. One row at a time: the memory then sees a single run of
addresses, which it delivers twice as fast as four."""

TEXTS = 4
"""Texts whose sums are in registers at once: with two chains each, eight of sixteen registers."""

BLOCK_BYTES = 2**16
"""Of weights that one group of texts after another multiplies: they wait in the second cache while the group's vectors are in the first."""

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


def rms_norms(k: Kernel, texts: int, x: Pointer, weight: Pointer | None, size: int, eps: float, groups: int = 1) -> Pointer:
    """``rms_norm`` of each row of x (texts, size), in scratch."""
    out = k.scratch(texts * size)
    with k.loop(0, texts) as text:
        rms_norm(k, x.at(text * size), weight, out.at(text * size), size, eps, groups)
    return out


def matvec(
    k: Kernel, weight: Pointer, scale: Pointer | None, x: Pointer, columns: int, first: Value, past: Value, texts: int,
    use: Callable[[Value, Value, Value], None], x_row: int | None = None,
) -> None:  # fmt: skip
    """use(row, text, weight[row] . x[text]) for each row of [first, past) and each text; x: (texts, columns) float32, x_row elements from
    one text to the next; scale: (rows,) of an int8 weight. Of a weight in blocks see blocks.py."""
    together = 1 if texts <= TEXTS else max(1, BLOCK_BYTES // blocks.row_bytes(weight, columns))
    if isinstance(weight, blocks.BlockPointer):
        blocks.matvec(k, weight, x, columns, (first, past), (texts, TEXTS, together), use, x_row or columns, AHEAD)
        return
    chains = next(n for n in (CHAINS, 1) if columns % (n * k.width) == 0 or n == 1)
    distance = columns if x_row is None else x_row

    def sums_of(row: Value, text: Value, count: int, prefetch: bool) -> None:
        start = weight.at(row * columns)
        inputs = [x.at((text + i) * distance) for i in range(count)]
        sums = [[k.variable(0.0) for _ in range(chains)] for _ in range(count)]
        with k.loop(0, columns, chains * k.width) as c:
            for byte in range(0, chains * k.width * weight.bytes if prefetch else 0, 64):
                start.prefetch(c + (AHEAD + byte) // weight.bytes)
            for chain in range(chains):
                at, left = c + chain * k.width, _left(k, columns, c)
                w = start.load(at, left)
                for source, totals in zip(inputs, sums):
                    totals[chain].set(w * source.load(at, left) + totals[chain].value)
        for i, totals in enumerate(sums):
            lanes = totals[0].value
            for other in totals[1:]:
                lanes = lanes + other.value
            value = k.sum_lanes(lanes)
            use(row, text + i, value if scale is None else value * scale.scalar(row))

    whole, rest = texts // TEXTS * TEXTS, texts % TEXTS
    with k.loop(first, past, together) as block:
        end = k.minimum(block + together, past)
        if rest:
            with k.loop(block, end) as row:
                sums_of(row, k.integer(whole), rest, True)
        if whole:
            with k.loop(0, whole, TEXTS) as text, k.loop(block, end) as row:
                sums_of(row, text, TEXTS, not rest)


def _left(k: Kernel, count: int, i: Value) -> Value | None:
    """Elements left at i, where ``count`` is no whole number of vectors."""
    return None if count % k.width == 0 else count - i


def _scale(k: Kernel, name: str, dtype: str) -> Pointer | None:
    return k.pointer(name, "float32") if dtype == "int8" else None


def project_in(
    k: Kernel, dtype: str, d_model: int, parts: tuple[tuple[int, bool], ...], taps: int, bias: bool, conv_bias: bool,
    eps: float, texts: int, tasks: int,
) -> None:  # fmt: skip
    """out = in_proj(rms_norm(hidden)), the part marked so then through the causal convolution and SiLU.

    parts: (rows, convolved) of each part of the projection, in its order. hidden: (texts, d_model); out: (texts, rows of all parts);
    conv_state: (texts, taps - 1, channels), oldest first; conv_weight: (taps, channels): channels lie side by side, as the lanes do.
    """
    hidden, norm, weight = k.pointer("hidden", "float32"), k.pointer("norm", "float32"), blocks.weights(k, "weight", dtype)
    scale, out = _scale(k, "scale", dtype), k.pointer("out", "float32")
    extra = k.pointer("bias", "float32") if bias else None
    states, taps_weight = k.pointer("conv_state", "float32"), k.pointer("conv_weight", "float32")
    taps_bias = k.pointer("conv_bias", "float32") if conv_bias else None
    normed = rms_norms(k, texts, hidden, norm, d_model, eps)
    width = sum(rows for rows, _ in parts)

    def write(row: Value, text: Value, value: Value) -> None:
        out.store_scalar(text * width + row, value if extra is None else value + extra.scalar(row))

    start = 0
    for rows, convolved in parts:
        first, past = share(k, rows, tasks, k.width)
        matvec(k, weight, scale, normed, d_model, first + start, past + start, texts, write)
        if convolved:
            with k.loop(0, texts) as text, k.loop(first, past, k.width) as c:
                left, channels, state = past - c, out.at(text * width + start), states.at(text * ((taps - 1) * rows))
                window = [state.load(c + t * rows, left) for t in range(taps - 1)] + [channels.load(c, left)]
                total = k.vector(0.0) if taps_bias is None else taps_bias.load(c, left)
                for t, value in enumerate(window):
                    total = taps_weight.load(c + t * rows, left) * value + total
                for t in range(taps - 1):
                    state.store(c + t * rows, window[t + 1], left)
                channels.store(c, silu(total), left)
        start += rows


def project(k: Kernel, dtype: str, rows: int, columns: int, x_row: int, texts: int, tasks: int) -> None:
    """out (texts, rows) = weight . x; x: (texts, columns), x_row elements from one text to the next."""
    x, weight, scale = k.pointer("x", "float32"), blocks.weights(k, "weight", dtype), _scale(k, "scale", dtype)
    out = k.pointer("out", "float32")
    first, past = share(k, rows, tasks)

    def write(row: Value, text: Value, value: Value) -> None:
        out.store_scalar(text * rows + row, value)

    matvec(k, weight, scale, x, columns, first, past, texts, write, x_row)


def project_out(
    k: Kernel, dtype: str, rows: int, columns: int, bias: bool, eps: float | None, groups: int, texts: int, tasks: int
) -> None:
    """hidden (texts, rows) += weight . x (+ bias), x (texts, columns) first normed in groups where eps is given."""
    x, weight, scale = k.pointer("x", "float32"), blocks.weights(k, "weight", dtype), _scale(k, "scale", dtype)
    hidden = k.pointer("hidden", "float32")
    extra = k.pointer("bias", "float32") if bias else None
    if eps is not None:
        x = rms_norms(k, texts, x, k.pointer("norm", "float32"), columns, eps, groups)
    first, past = share(k, rows, tasks)

    def add(row: Value, text: Value, value: Value) -> None:
        at = text * rows + row
        hidden.store_scalar(at, hidden.scalar(at) + (value if extra is None else value + extra.scalar(row)))

    matvec(k, weight, scale, x, columns, first, past, texts, add)


def head(k: Kernel, dtype: str, d_model: int, vocabulary: int, eps: float, texts: int, tasks: int) -> None:
    """logits (texts, vocabulary) = lm_head(rms_norm(hidden))."""
    hidden, norm, weight = k.pointer("hidden", "float32"), k.pointer("norm", "float32"), blocks.weights(k, "weight", dtype)
    scale, logits = _scale(k, "scale", dtype), k.pointer("logits", "float32")
    normed = rms_norms(k, texts, hidden, norm, d_model, eps)
    first, past = share(k, vocabulary, tasks)

    def write(row: Value, text: Value, value: Value) -> None:
        logits.store_scalar(text * vocabulary + row, value)

    matvec(k, weight, scale, normed, d_model, first, past, texts, write)


def mamba1_state(
    k: Kernel, dtype: str, channels: int, rank: int, states: int, inner_eps: float | None, texts: int, tasks: int
) -> None:
    """y = (C . h + D x) silu(z) with h = exp(dt A) h + dt B x and dt = softplus(dt_proj(low rank) + bias).

    low: (texts, rank + 2 states), x_proj's output; xz: (texts, 2 channels); dt_weight: (rank, channels); A2: A / ln 2 (states, channels);
    h: (texts, states, channels). inner_eps: FalconMamba's norms, without weights, of the low rank, B and C.
    """
    lows, xz, y = k.pointer("low", "float32"), k.pointer("xz", "float32"), k.pointer("y", "float32")
    weight, bias, skip = k.pointer("dt_weight", dtype), k.pointer("dt_bias", "float32"), k.pointer("D", "float32")
    a2, all_states = k.pointer("A2", "float32"), k.pointer("state", "float32")
    width = rank + 2 * states
    if inner_eps is not None:
        normed = k.scratch(texts * width)
        with k.loop(0, texts) as text:
            for start, count in ((0, rank), (rank, states), (rank + states, states)):
                at = text * width + start
                rms_norm(k, lows.at(at), None, normed.at(at), count, inner_eps)
        lows = normed
    first, past = share(k, channels, tasks, k.width)
    with k.loop(first, past, k.width) as c, k.loop(0, texts) as text:
        left, low, state = past - c, lows.at(text * width), all_states.at(text * (states * channels))
        inputs = xz.at(text * (2 * channels))
        dt = k.variable(bias.load(c, left))
        with k.loop(0, rank) as r:
            dt.set(weight.load(c + r * channels, left) * low.broadcast(r) + dt.value)
        step = softplus(dt.value)
        x = inputs.load(c, left)
        source = step * x
        total = k.variable(0.0)
        with k.loop(0, states) as n:
            at = c + n * channels
            h = state.load(at, left) * exp2(step * a2.load(at, left)) + source * low.broadcast(n + rank)
            state.store(at, h, left)
            total.set(h * low.broadcast(n + (rank + states)) + total.value)
        gated = (total.value + skip.load(c, left) * x) * silu(inputs.load(c + channels, left))
        y.store(text * channels + c, gated, left)


def mamba2_state(
    k: Kernel, heads: int, headdim: int, groups: int, states: int, dt_limit: tuple[float, float]
) -> None:
    """y = (C . h + D x) silu(z) with h = exp(dt A) h + dt x B; task = a head of a text. projected: (texts, z x B C dt);
    state: (texts, heads, headdim, states)."""
    d_inner, per_group = heads * headdim, heads // groups
    head_, text = k.task % heads, k.task / heads
    projected = k.pointer("projected", "float32").at(text * (2 * d_inner + 2 * groups * states + heads))
    y, state = k.pointer("y", "float32").at(text * d_inner), k.pointer("state", "float32")
    a, bias, skip = k.pointer("A", "float32"), k.pointer("dt_bias", "float32"), k.pointer("D", "float32")
    z, x, B = projected, projected.at(d_inner), projected.at(2 * d_inner)
    C, dt = B.at(groups * states), B.at(2 * groups * states)
    group = head_ / per_group
    step = softplus(k.vector(dt.scalar(head_)) + k.vector(bias.scalar(head_)))
    if dt_limit != (0.0, float("inf")):
        step = k.minimum(k.maximum(step, dt_limit[0]), dt_limit[1])
    decay = exp2(step * k.vector(a.scalar(head_)) * LOG2E)
    own = state.at(k.task * (headdim * states))
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

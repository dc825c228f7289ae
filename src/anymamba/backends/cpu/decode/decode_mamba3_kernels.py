"""Mamba-3's recurrence in a decoding step, and the gated MLP of its blocks, for one or several texts (see decode_kernels.py)."""

from __future__ import annotations

import math

from anymamba.backends.cpu import blocks
from anymamba.backends.cpu.decode.decode_kernels import _left, _scale, matvec, rms_scale, share
from anymamba.backends.cpu.jit.emit import Kernel, Value
from anymamba.backends.cpu.jit.memory import Pointer
from anymamba.backends.cpu.jit.vecmath import LOG2E, cosine_and_sine, exp2, fraction, sigmoid, silu, softplus, tanh


def mamba3_state(
    k: Kernel, heads: int, headdim: int, groups: int, states: int, rank: int, angles: int, projected: bool, activation: str,
    floor: float, eps: float, gated_norm: bool,
) -> None:  # fmt: skip
    """y (texts, d_inner) = the recurrence, gated and summed over the ranks; task = a head of a text. See decode_model.ByRank.

    row: (texts, z x B C dt A trap angles), in_proj's output; memory: (texts, heads, headdim * states + angles), states and angles; last:
    (texts, heads, rank * states + headdim), the keys and the value of the token before. Both are changed.
    """
    d_inner, keys = heads * headdim, rank * groups * states
    head, text = k.task % heads, k.task / heads
    row = k.pointer("row", "float32").at(text * (2 * d_inner + 2 * keys + 3 * heads + angles))
    y = k.pointer("y", "float32").at(text * d_inner + head * headdim)
    own = k.pointer("memory", "float32").at(k.task * (headdim * states + angles))
    last = k.pointer("last", "float32").at(k.task * (rank * states + headdim))
    last_value = last.at(rank * states)
    z, x = row.at(head * headdim), row.at(head * headdim + d_inner)
    B, C, steps = row.at(2 * d_inner), row.at(2 * d_inner + keys), row.at(2 * d_inner + 2 * keys)

    dt = softplus(steps.broadcast(head) + k.pointer("dt_bias", "float32").broadcast(head))
    decay = exp2(dt * _rate(k, steps.broadcast(head + heads), activation, floor) * LOG2E)
    trap = sigmoid(steps.broadcast(head + 2 * heads))
    earlier, now = (1.0 - trap) * dt * decay, trap * dt

    cosine, sine = k.scratch(angles), k.scratch(angles)
    angle, logits = own.at(headdim * states), steps.at(3 * heads)
    with k.loop(0, angles, k.width) as j:
        left = _left(k, angles, j)
        turns = fraction(angle.load(j, left) * (0.5 / math.pi) + tanh(logits.load(j, left)) * dt * 0.5)
        first, second = cosine_and_sine(turns)
        cosine.store(j, first, left)
        sine.store(j, second, left)
        angle.store(j, k.select(turns < 0.0, turns + 1.0, turns) * (2 * math.pi), left)

    key, query = k.scratch(rank * states), k.scratch(rank * states)
    group = head / (heads // groups)
    for name, source, out in (("B", B, key), ("C", C, query)):
        norm, bias = k.pointer(f"{name}_norm", "float32"), k.pointer(f"{name}_bias", "float32").at(head * (rank * states))
        for r in range(rank):
            raw = source.at((group + r * groups) * states)
            whole = rms_scale(k, raw, 0, states, eps)
            with k.loop(0, states, k.width) as n:
                left = _left(k, states, n)
                out.store(n + r * states, raw.load(n, left) * whole * norm.load(n, left) + bias.load(n + r * states, left), left)
            _turn(k, out.at(r * states), cosine, sine, angles, states, projected)

    up, gate, down = (k.pointer(name, "float32").at(head * (rank * headdim)) if projected else None for name in ("up", "gate", "down"))
    skip = k.pointer("D", "float32").scalar(head)
    result = k.scratch(rank * headdim)
    with k.loop(0, headdim) as p:
        value, before = x.broadcast(p), last_value.broadcast(p)
        factors = [1.0 if up is None else up.broadcast(p + r * headdim) for r in range(rank)]
        sources = [(before * earlier * factor, value * now * factor) for factor in factors]
        totals = [k.variable(0.0) for _ in range(rank)]
        with k.loop(0, states, k.width) as n:
            left = _left(k, states, n)
            h = own.load(p * states + n, left) * decay
            for r, (old, new) in enumerate(sources):
                h = new * key.load(n + r * states, left) + (old * last.load(n + r * states, left) + h)
            own.store(p * states + n, h, left)
            for r, total in enumerate(totals):
                total.set(h * query.load(n + r * states, left) + total.value)
        for r, total in enumerate(totals):
            through = x.scalar(p) * skip
            through = through if up is None else through * up.scalar(p + r * headdim)
            result.store_scalar(p + r * headdim, k.sum_lanes(total.value) + through)

    weight = k.pointer("gated_norm", "float32").at(head * headdim) if gated_norm else None
    scales = [rms_scale(k, result, r * headdim, headdim, eps) if gated_norm else None for r in range(rank)]
    with k.loop(0, headdim, k.width) as p:
        left, sum_ = _left(k, headdim, p), k.vector(0.0)
        for r, scale in enumerate(scales):
            at, part = p + r * headdim, result.load(p + r * headdim, left)
            if scale is not None and weight is not None:
                part = part * scale * weight.load(p, left)
            part = part * silu(z.load(p, left) if gate is None else z.load(p, left) * gate.load(at, left))
            sum_ = sum_ + (part if down is None else part * down.load(at, left))
        y.store(p, sum_, left)
        last_value.store(p, x.load(p, left), left)
    with k.loop(0, rank * states, k.width) as n:
        left = _left(k, rank * states, n)
        last.store(n, key.load(n, left), left)


def _rate(k: Kernel, logit: Value, activation: str, floor: float) -> Value:
    """See reference/mamba3_decay.py."""
    if activation == "softplus":
        rate = softplus(logit)
    else:
        below = k.minimum(logit, 0.0)
        rate = k.maximum(logit, 0.0) + 1.0 / (1.0 - below)
    return -k.maximum(rate, floor)


def _turn(k: Kernel, x: Pointer, cosine: Pointer, sine: Pointer, angles: int, states: int, apart: bool) -> None:
    """x (states,), its pairs turned: half of the states apart, or neighbours."""
    if apart:
        with k.loop(0, angles, k.width) as j:
            left = _left(k, angles, j)
            a, b, c, s = (source.load(at, left) for source, at in ((x, j), (x, j + states // 2), (cosine, j), (sine, j)))
            x.store(j, a * c - b * s, left)
            x.store(j + states // 2, a * s + b * c, left)
        return
    with k.loop(0, angles) as j:
        first, second, c, s = x.scalar(j * 2), x.scalar(j * 2 + 1), cosine.scalar(j), sine.scalar(j)
        x.store_scalar(j * 2, first * c - second * s)
        x.store_scalar(j * 2 + 1, first * s + second * c)


def gated_out(k: Kernel, dtype: str, rows: int, columns: int, texts: int, tasks: int) -> None:
    """hidden (texts, rows) += weight . (y * silu(gate)), y and gate being the halves of x (texts, 2 columns)."""
    x, weight, scale = k.pointer("x", "float32"), blocks.weights(k, "weight", dtype), _scale(k, "scale", dtype)
    hidden, gated = k.pointer("hidden", "float32"), k.scratch(texts * columns)
    with k.loop(0, texts) as text, k.loop(0, columns, k.width) as c:
        left, at = _left(k, columns, c), text * (2 * columns) + c
        gated.store(text * columns + c, x.load(at, left) * silu(x.load(at + columns, left)), left)
    first, past = share(k, rows, tasks)

    def add(row: Value, text: Value, value: Value) -> None:
        at = text * rows + row
        hidden.store_scalar(at, hidden.scalar(at) + value)

    matvec(k, weight, scale, gated, columns, first, past, texts, add)

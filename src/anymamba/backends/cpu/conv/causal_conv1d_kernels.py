"""Kernels of the causal depthwise convolution. Lanes are channels; a few tokens are computed together, so that each input is read once.

Taps are given as (width, dim) float32: tap j weighs the token j steps back. ``before``: the width - 1 tokens before token 0.
"""

from __future__ import annotations

from anymamba.backends.cpu.jit.emit import Kernel, Value
from anymamba.backends.cpu.jit.lanes import Left, over_channels
from anymamba.backends.cpu.jit.memory import Pointer
from anymamba.backends.cpu.jit.vecmath import sigmoid, silu


class _Tokens:
    """Inputs of one sequence, token numbers from -(width - 1) on, and which of two tokens are of one document."""

    def __init__(self, k: Kernel, dtype: str, width: int, ids: str | None, batch: Value) -> None:
        self.k, self.width = k, width
        self.length, self.dim = k.size("length"), k.size("dim")
        x_batch, self.row = k.size("x_batch"), k.size("x_token")
        self.x = k.pointer("x", dtype).at(batch * x_batch)
        self.before = k.pointer("before", dtype).at(batch * (self.dim * (width - 1)))
        self.ids = None if ids is None else k.pointer("seq_idx", ids).at(batch * self.length)

    def line(self, token: Value, history: bool) -> Pointer:
        """The token's channels. history: it may lie before token 0."""
        here = self.x.at(token * self.row)
        if not history:
            return here
        earlier = self.before.at((token + (self.width - 1)) * self.dim)
        return Pointer(self.k, here.dtype, self.k.builder.select((token < 0).ir, earlier.address, here.address))

    def id(self, token: Value) -> Value:
        """What lies before token 0 belongs to its document."""
        assert self.ids is not None
        return self.ids.scalar(self.k.maximum(token, 0))


def forward(k: Kernel, dtype: str, width: int, activation: bool, ids: str | None, together: int) -> None:
    """out (batch, length, dim). Task: (batch, block of tokens). ids: dtype of seq_idx, or None without."""
    blocks, block = k.size("blocks"), k.size("block")
    batch, first = k.task / blocks, k.task % blocks * block
    tokens = _Tokens(k, dtype, width, ids, batch)
    taps, bias = k.pointer("taps", "float32"), k.pointer("bias", "float32")
    out = k.pointer("out", dtype).at(batch * tokens.length * tokens.dim)
    end = k.minimum(first + block, tokens.length)

    def tile(start: Value, count: int) -> None:
        lines = [tokens.line(start + i, i < 0) for i in range(1 - width, count)]
        mixes = None if ids is None else _mixes(tokens, start, count)

        def channels(c: Value, left: Left) -> None:
            inputs = [line.load(c, left) for line in lines]
            weights = [taps.load(j * tokens.dim + c, left) for j in range(width)]
            shift = bias.load(c, left)
            for i in range(count):
                value = _sum(k, inputs, weights, shift, i, mixes)
                value = silu(value) if activation else value
                if mixes is not None:
                    value = k.select(mixes[i].padding, 0.0, value)
                out.store((start + i) * tokens.dim + c, value, left)

        over_channels(k, 0, tokens.dim, channels)

    whole = first + (end - first) / together * together
    with k.loop(first, whole, together) as start:
        tile(start, together)
    with k.loop(whole, end) as start:
        tile(start, 1)


def backward(k: Kernel, dtype: str, width: int, activation: bool, ids: str | None, starts: bool, together: int) -> None:
    """dx (batch, length, dim), dtaps (batch, width + 1, dim): of the taps, then of the bias; dbefore like before if starts.

    Task: (batch, block of channels), from the last token to the first: a task owns its channels' sums."""
    blocks, block = k.size("blocks"), k.size("block")
    batch, first = k.task / blocks, k.task % blocks * block
    tokens = _Tokens(k, dtype, width, ids, batch)
    dim, length = tokens.dim, tokens.length
    taps, bias = k.pointer("taps", "float32"), k.pointer("bias", "float32")
    dout, dx = k.pointer("dout", dtype).at(batch * k.size("dout_batch")), k.pointer("dx", dtype).at(batch * length * dim)
    dout_row = k.size("dout_token")
    dtaps = k.pointer("dtaps", "float32").at(batch * dim * (width + 1))
    # gradients before the activation of the width - 1 tokens after those at work
    later = k.pointer("later", "float32").at(batch * dim * (width - 1))
    end = k.minimum(first + block, dim)

    def tile(start: Value, count: int) -> None:
        lines = [tokens.line(start + i, i < 0) for i in range(1 - width, count)]
        mixes = None if ids is None else _mixes(tokens, start, count + width - 1)

        def channels(c: Value, left: Left) -> None:
            inputs = [line.load(c, left) for line in lines]
            weights = [taps.load(j * dim + c, left) for j in range(width)]
            shift = bias.load(c, left)
            gradients = []
            for i in range(count):
                gradient = dout.load((start + i) * dout_row + c, left)
                if activation:
                    value = _sum(k, inputs, weights, shift, i, mixes)
                    s = sigmoid(value)
                    gradient = gradient * s * (1.0 + value * (1.0 - s))
                if mixes is not None:
                    gradient = k.select(mixes[i].padding, 0.0, gradient)
                gradients.append(gradient)
            for j in range(width + 1):
                total = dtaps.load(j * dim + c, left)
                for i, gradient in enumerate(gradients):
                    if j == width:
                        total = total + gradient
                    else:
                        total = total + gradient * _masked(k, inputs[i + width - 1 - j], mixes, i, j)
                dtaps.store(j * dim + c, total, left)
            gradients += [later.load(j * dim + c, left) for j in range(width - 1)]
            for i in range(count):
                value = gradients[i] * weights[0]
                for j in range(1, width):
                    value = value + _masked(k, gradients[i + j], mixes, i + j, j) * weights[j]
                dx.store((start + i) * dim + c, value, left)
            for j in range(width - 1):
                later.store(j * dim + c, gradients[j], left)

        over_channels(k, first, end, channels)

    def clear(c: Value, left: Left) -> None:
        for j in range(width + 1):
            dtaps.store(j * dim + c, k.vector(0.0), left)
        for j in range(width - 1):
            later.store(j * dim + c, k.vector(0.0), left)

    def first_states(c: Value, left: Left) -> None:
        for m in range(1, width):
            total = k.vector(0.0)
            for j in range(m, width):
                gradient = later.load((j - m) * dim + c, left)
                if ids is not None:
                    # past the last token the gradients are zero, whatever its id
                    same = tokens.id(k.minimum(k.integer(j - m), length - 1)).equals(tokens.id(k.integer(0)))
                    gradient = k.select(same, gradient, 0.0)
                total = total + gradient * taps.load(j * dim + c, left)
            dbefore.store((width - 1 - m) * dim + c, total, left)

    over_channels(k, first, end, clear)
    whole = length / together * together
    with k.loop(whole, length, reverse=True) as start:
        tile(start, 1)
    with k.loop(0, length / together, reverse=True) as number:
        tile(number * together, together)
    if starts:
        dbefore = k.pointer("dbefore", dtype).at(batch * dim * (width - 1))
        over_channels(k, first, end, first_states)


class _Mix:
    """Of one output token: is it padding, and for each tap, is that input of the same document."""

    def __init__(self, tokens: _Tokens, token: Value) -> None:
        k = tokens.k
        token = k.minimum(token, tokens.length - 1)
        own = tokens.id(token)
        self.padding = own < 0
        self.same = [tokens.id(token - j).equals(own) for j in range(tokens.width)]


def _mixes(tokens: _Tokens, start: Value, count: int) -> list[_Mix]:
    return [_Mix(tokens, start + i) for i in range(count)]


def _masked(k: Kernel, value: Value, mixes: list[_Mix] | None, token: int, tap: int) -> Value:
    return value if mixes is None or tap == 0 else k.select(mixes[token].same[tap], value, 0.0)


def _sum(k: Kernel, inputs: list[Value], weights: list[Value], shift: Value, i: int, mixes: list[_Mix] | None) -> Value:
    """inputs: from token 1 - width of the tile on."""
    total, width = shift, len(weights)
    for j in range(width - 1, -1, -1):
        total = total + _masked(k, inputs[i + width - 1 - j], mixes, i, j) * weights[j]
    return total

"""Kernels of the SSD scan, forward: chunks of a head one after another, its state (d_state, headdim) in cache.

Mamba-2, section 6: inside a chunk of tokens the scan is a product with a masked (CHUNK, CHUNK) matrix, between chunks the state passes.
Padded sizes: ``rows`` is d_state and ``columns`` headdim, both rounded up to the vector width.
"""

from __future__ import annotations

from anymamba.backends.cpu.jit.emit import Kernel
from anymamba.backends.cpu.jit.vecmath import silu
from anymamba.backends.cpu.ssd.ssd_tiles import CHUNK, TILE_ROWS, Decays, Room, Tiles, fetch, pack, scale_rows

SEGMENT = 16
"""Chunks between two states that the forward pass keeps for the backward pass, which recomputes those between."""


def prepare(k: Kernel, dtype: str, room: int) -> None:
    """B and C of a chunk in float32, and their products scores[t, s] = C[t] . B[s]; shared by the heads of a group.

    Task: (batch, group, chunk). packed_B, packed_C (tasks, CHUNK, rows); scores (tasks, CHUNK, CHUNK)."""
    tiles = Tiles(k)
    B, C = k.pointer("B", dtype), k.pointer("C", dtype)
    packed_B, packed_C, scores = (k.pointer(name, "float32") for name in ("packed_B", "packed_C", "scores"))
    length, groups, chunks, d_state, rows = (k.size(name) for name in ("length", "groups", "chunks", "d_state", "rows"))
    chunk, group, batch = k.task % chunks, k.task / chunks % groups, k.task / chunks / groups
    start = chunk * CHUNK
    tokens = k.minimum(length - start, CHUNK)
    for name, source, packed in (("B", B, packed_B), ("C", C, packed_C)):
        by_batch, by_token, by_group = (k.size(f"{name}_{axis}") for axis in ("batch", "token", "group"))
        first = source.at(batch * by_batch + start * by_token + group * by_group)
        pack(k, packed.at(k.task * rows * CHUNK), first, by_token, tokens, d_state, rows)
    B_columns = Room(k, room).take(rows * CHUNK)
    tiles.transpose(B_columns, CHUNK, packed_B.at(k.task * rows * CHUNK), rows, CHUNK, rows)
    C_rows, out = packed_C.at(k.task * rows * CHUNK), scores.at(k.task * CHUNK * CHUNK)
    tiles.product(out, CHUNK, C_rows, rows, 1, B_columns, CHUNK, CHUNK, CHUNK, rows)


def forward(k: Kernel, dtype: str, apart: bool, gated: bool, starts: bool, ends: bool, keeps: bool, room: int) -> None:
    """out (batch, length, nheads, headdim). Task: (batch, head).

    apart: decays are exp of ``exponents`` (batch, nheads, length) float32 and not of dt A, so dt is but the weight of a token's input.
    gated: z is given. starts, ends: initial states are given, final states are asked for, both (tasks, columns, rows) float32.
    keeps: a backward pass follows: states at the borders of segments (tasks, segments - 1, columns, rows) and, if gated, ``ungated``,
    the output before the gate, like out, are written too.
    """
    tiles = Tiles(k)
    x, out = k.pointer("x", dtype), k.pointer("out", dtype)
    B, C, scores, dt, carry, A, D = (k.pointer(n, "float32") for n in ("packed_B", "packed_C", "scores", "dt", "carry", "A", "D"))
    length, heads, groups, chunks = (k.size(name) for name in ("length", "nheads", "groups", "chunks"))
    headdim, rows, columns = (k.size(name) for name in ("headdim", "rows", "columns"))
    x_batch, x_token, x_head = (k.size(name) for name in ("x_batch", "x_token", "x_head"))
    batch, head = k.task / heads, k.task % heads
    group = batch * groups + head / (heads / groups)
    D, rate, square = D.at(head * columns), A.scalar(head), rows * columns
    x, out = x.at(batch * x_batch + head * x_head), out.at((batch * length * heads + head) * headdim)
    if gated:
        z_batch, z_token, z_head = (k.size(name) for name in ("z_batch", "z_token", "z_head"))
        z = k.pointer("z", dtype).at(batch * z_batch + head * z_head)
    if gated and keeps:
        ungated = k.pointer("ungated", dtype).at((batch * length * heads + head) * headdim)

    exponents = k.pointer("exponents", "float32").at(k.task * length) if apart else None

    memory = Room(k, room)
    decays = Decays(k, memory.take(Decays.SCRATCH))
    x_chunk, x_weighted, y_chunk = (memory.take(columns * CHUNK) for _ in range(3))
    state = memory.take(square)
    if starts:
        tiles.transpose(state, columns, k.pointer("initial_states", "float32").at(k.task * square), rows, columns, rows)
    else:
        with k.loop(0, square, k.width) as i:
            state.store(i, k.vector(0.0))
    saved_states = k.pointer("saved_states", "float32").at(k.task * ((chunks - 1) / SEGMENT) * square) if keeps else None

    with k.loop(0, chunks) as chunk:
        start = chunk * CHUNK
        tokens = k.minimum(length - start, CHUNK)
        padded = (tokens + (TILE_ROWS - 1)) / TILE_ROWS * TILE_ROWS
        B_chunk, C_chunk = (packed.at((group * chunks + chunk) * rows * CHUNK) for packed in (B, C))
        decay = rate if exponents is None else exponents.at(start)
        decays.fill(dt.at(k.task * length + start), carry.at(batch * length + start), decay, tokens)
        decays.fill_between(tokens)
        pack(k, x_chunk, x.at(start * x_token), x_token, tokens, headdim, columns)
        fetch(k, x.at((start + CHUNK) * x_token), x_token, k.minimum(length - start - CHUNK, CHUNK), headdim)
        scale_rows(k, x_weighted, x_chunk, columns, decays.to_end, decays.step)
        scores_chunk = scores.at((group * chunks + chunk) * CHUNK * CHUNK)
        with k.loop(0, padded) as t:
            for s in range(0, CHUNK, k.width):
                here = t * CHUNK + s
                decays.between.store(here, decays.between.load(here) * scores_chunk.load(here) * decays.step.load(s))
        tiles.product(y_chunk, columns, C_chunk, rows, 1, state, columns, padded, columns, rows)
        tiles.product(
            y_chunk, columns, decays.between, CHUNK, 1, x_chunk, columns, padded, columns, 0,
            start=y_chunk, scale=decays.from_start, scale_row=1, last_slope=1,
        )  # fmt: skip
        with k.loop(0, tokens) as t, k.loop(0, columns, k.width) as p:
            left, token = headdim - p, start + t
            y = y_chunk.load(t * columns + p) + D.load(p) * x_chunk.load(t * columns + p)
            if gated:
                if keeps:
                    ungated.store(token * heads * headdim + p, y, left)
                y = y * silu(z.load(token * z_token + p, left))
            out.store(token * heads * headdim + p, y, left)
        needed = chunk + 1 <= chunks if ends else chunk + 1 < chunks
        with k.if_(needed):
            tiles.product(
                state, columns, B_chunk, 1, rows, x_weighted, columns, rows, columns, tokens,
                start=state, scale=decays.whole,
            )  # fmt: skip
        if saved_states is not None:
            border = (chunk + 1) / SEGMENT
            with k.if_(((chunk + 1) % SEGMENT).equals(0).both(chunk + 1 < chunks)):
                tiles.transpose(saved_states.at((border - 1) * square), rows, state, columns, rows, columns)
    if ends:
        tiles.transpose(k.pointer("final_states", "float32").at(k.task * square), rows, state, columns, rows, columns)

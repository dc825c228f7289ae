"""Kernels of the SSD scan, backward: chunks in reverse order, the states they start from recomputed a segment at a time.

Per chunk, with H the arriving state, S the gradient of the leaving state, between/from_start/to_end/step of ssd_tiles.Decays,
scores = C B^T and K = (dY X^T) * between * step (the gradient of the scores, one head's part):

    dU = to_end * (B S) + (scores * between)^T dY          dX = step * dU + D dY
    dC = from_start * (dY H) + K B                         dB = (to_end * step * X) S^T + K^T C
    S before the chunk = whole * S + C^T (from_start * dY)

The log-decay of token t scales what tokens s < t hand to tokens t' >= t. Its gradient is the sum over these pairs, by where the two lie:
both in the chunk (column sums of K * scores, from the last row up, over s < t); s before it (from_start * dY H . C, summed over t' >= t);
t' after it (to_end * step * B S . x, summed over s < t); s before and t' after (whole * <H, S>). None of these sums subtracts, so nothing
cancels, unlike in the shorter form "reverse cumulative sum of C . dC - B . dB".
"""

from __future__ import annotations

from llvmlite import ir

from anymamba.backends.cpu.jit.emit import Kernel, Value
from anymamba.backends.cpu.jit.lanes import lanes_below
from anymamba.backends.cpu.jit.memory import Pointer
from anymamba.backends.cpu.jit.values import PTR
from anymamba.backends.cpu.jit.vecmath import sigmoid
from anymamba.backends.cpu.ssd.ssd_forward import SEGMENT
from anymamba.backends.cpu.ssd.ssd_tiles import CHUNK, TILE_ROWS, Decays, Room, Tiles, fetch, pack, scale_rows


def backward(k: Kernel, dtype: str, apart: bool, gated: bool, starts: bool, ends: bool, room: int) -> None:
    """Task: (batch, group, block of heads); the heads of a block add up their parts of the gradients of B and C one after another.

    apart: as in forward; then dexponents (batch, nheads, length) is written too, and ddt is the gradient of the weights alone.
    Reads what forward read and kept, ``dout`` (batch, length, nheads, headdim) and, if ends, ``dfinal`` like final_states.
    Writes dx (and dz) like dout, ddt (batch, nheads, length), dA (batch, nheads), dD (batch, nheads, columns), dinitial like
    initial_states, and the block's parts_B, parts_C (tasks, chunks, CHUNK, rows) without K's share, parts_K (tasks, chunks, CHUNK, CHUNK).
    """
    tiles = Tiles(k)
    x, dout, dx = (k.pointer(name, dtype) for name in ("x", "dout", "dx"))
    B, C, scores, dt, carry, A, D = (k.pointer(n, "float32") for n in ("packed_B", "packed_C", "scores", "dt", "carry", "A", "D"))
    ddt, dA, dD, dinitial = (k.pointer(name, "float32") for name in ("ddt", "dA", "dD", "dinitial"))
    parts_B, parts_C, parts_K, saved_states = (k.pointer(name, "float32") for name in ("parts_B", "parts_C", "parts_K", "saved_states"))
    length, heads, groups, blocks, chunks = (k.size(name) for name in ("length", "nheads", "groups", "blocks", "chunks"))
    headdim, rows, columns = (k.size(name) for name in ("headdim", "rows", "columns"))
    x_batch, x_token, x_head = (k.size(name) for name in ("x_batch", "x_token", "x_head"))
    initial = k.pointer("initial_states", "float32") if starts else None
    dfinal = k.pointer("dfinal", "float32") if ends else None
    of_exponents = [k.pointer(name, "float32") for name in ("exponents", "dexponents")] if apart else []
    gate: list[Pointer] = []
    if gated:
        z_batch, z_token, z_head = (k.size(name) for name in ("z_batch", "z_token", "z_head"))
        gate = [k.pointer(name, dtype) for name in ("z", "dz", "ungated")]

    block, batch = k.task % blocks, k.task / blocks / groups
    group, square = k.task / blocks, rows * columns
    of_group = heads / groups
    of_block = (of_group + blocks - 1) / blocks
    first_head = (group % groups) * of_group + block * of_block
    end_head = k.minimum(first_head + of_block, (group % groups + 1) * of_group)

    memory = Room(k, room)
    decays = Decays(k, memory.take(Decays.SCRATCH))
    x_chunk, x_weighted, dy, dy_weighted, du, x_turned = (memory.take(columns * CHUNK) for _ in range(6))
    dC_chunk, K = memory.take(rows * CHUNK), memory.take(CHUNK * CHUNK)
    of_decay, of_step, from_earlier, to_later = (memory.take(CHUNK) for _ in range(4))
    dstate, dstate_turned, states = memory.take(square), memory.take(square), memory.take(square * (SEGMENT + 1))

    with k.loop(first_head, end_head) as head:
        lane = batch * heads + head
        rate, D_head, dD_head, steps = A.scalar(head), D.at(head * columns), dD.at(lane * columns), dt.at(lane * length)
        exponents, dexponents = (pointer.at(lane * length) for pointer in of_exponents) if apart else (None, None)
        x_head_first = x.at(batch * x_batch + head * x_head)
        out_offset = (batch * length * heads + head) * headdim
        out_token = heads * headdim
        adds = head > first_head
        dA_total = k.variable(k.scalar(0.0))
        with k.loop(0, columns, k.width) as p:
            dD_head.store(p, k.vector(0.0))
        if dfinal is not None:
            copy(k, dstate_turned, dfinal.at(lane * square), square)
        else:
            clear(k, dstate_turned, square)
        tiles.transpose(dstate, columns, dstate_turned, rows, columns, rows)

        with k.loop(0, (chunks + (SEGMENT - 1)) / SEGMENT, reverse=True) as segment:
            begin = segment * SEGMENT
            end = k.minimum(begin + SEGMENT, chunks)
            with k.if_else(segment > 0) as (later, first):
                with later:
                    copy(k, states, saved_states.at((lane * ((chunks - 1) / SEGMENT) + segment - 1) * square), square)
                with first:
                    if initial is not None:
                        copy(k, states, initial.at(lane * square), square)
                    else:
                        clear(k, states, square)

            def load_x(chunk: Value) -> tuple[Value, Value]:
                start = chunk * CHUNK
                tokens = k.minimum(length - start, CHUNK)
                decay = rate if exponents is None else exponents.at(start)
                decays.fill(steps.at(start), carry.at(batch * length + start), decay, tokens)
                pack(k, x_chunk, x_head_first.at(start * x_token), x_token, tokens, headdim, columns)
                scale_rows(k, x_weighted, x_chunk, columns, decays.to_end, decays.step)
                return start, tokens

            with k.loop(begin, end) as chunk:
                start, tokens = load_x(chunk)
                ahead = start + CHUNK
                fetch(k, x_head_first.at(ahead * x_token), x_token, k.minimum(length - ahead, CHUNK), headdim)
                state = states.at((chunk - begin) * square)
                # (columns, rows): turned against the forward pass, for dC
                tiles.product(
                    state.at(square), rows, x_weighted, 1, columns, B.at((group * chunks + chunk) * rows * CHUNK), rows,
                    columns, rows, tokens, start=state, scale=decays.whole,
                )  # fmt: skip

            with k.loop(begin, end, reverse=True) as chunk:
                start, tokens = load_x(chunk)
                padded = (tokens + (TILE_ROWS - 1)) / TILE_ROWS * TILE_ROWS
                shared = group * chunks + chunk
                B_chunk, C_chunk = B.at(shared * rows * CHUNK), C.at(shared * rows * CHUNK)
                scores_chunk = scores.at(shared * CHUNK * CHUNK)
                own = k.task * chunks + chunk
                state = states.at((chunk - begin) * square)
                decays.fill_between(tokens)
                offset = out_offset + start * out_token
                pack(k, dy, dout.at(offset), out_token, tokens, headdim, columns)
                with k.if_(chunk > 0):
                    ahead = start - CHUNK
                    fetch(k, x_head_first.at(ahead * x_token), x_token, k.integer(CHUNK), headdim)
                    fetch(k, dout.at(out_offset + ahead * out_token), out_token, k.integer(CHUNK), headdim)
                fetch(k, dx.at(offset), out_token, tokens, headdim, write=True)
                if gated:
                    first = batch * z_batch + head * z_head + start * z_token
                    z, dz, ungated = gate[0].at(first), gate[1].at(offset), gate[2].at(offset)
                    with k.loop(0, tokens) as t, k.loop(0, columns, k.width) as p:
                        left, gradient = headdim - p, dy.load(t * columns + p)
                        gate_value = z.load(t * z_token + p, left)
                        s = sigmoid(gate_value)
                        dy.store(t * columns + p, gradient * gate_value * s)
                        slope = s * (1.0 + gate_value * (1.0 - s))
                        dz.store(t * out_token + p, gradient * ungated.load(t * out_token + p, left) * slope, left)
                scale_rows(k, dy_weighted, dy, columns, decays.from_start)

                passing = decays.whole.scalar() * dot(k, dstate_turned, state, square)

                tiles.transpose(x_turned, CHUNK, x_chunk, columns, CHUNK, columns)
                tiles.product(K, CHUNK, dy, columns, 1, x_turned, CHUNK, padded, CHUNK, columns)
                part_K = parts_K.at(own * CHUNK * CHUNK)
                since = [k.variable(0.0) for _ in range(0, CHUNK, k.width)]
                with k.loop(0, padded, reverse=True) as t:
                    across = k.variable(0.0)
                    for first_lane, later in zip(range(0, CHUNK, k.width), since):
                        here = t * CHUNK + first_lane
                        between, step = decays.between.load(here), decays.step.load(first_lane)
                        weight = between * scores_chunk.load(here)
                        decays.between.store(here, weight)
                        score = K.load(here)
                        add_to(k, part_K, here, score * between * step, adds)
                        # pairs (s, t') with t' >= t, of which those with s < t see the decay of t
                        later.set(later.value + score * weight)
                        across.set(across.value + k.select(lanes_below(k, t, first_lane), later.value * step, 0.0))
                    of_decay.store_scalar(t, k.sum_lanes(across.value))
                for first_lane, later in zip(range(0, CHUNK, k.width), since):
                    of_step.store(first_lane, later.value)

                tiles.product(du, columns, B_chunk, rows, 1, dstate, columns, padded, columns, rows)
                with k.loop(0, tokens) as t:
                    along = k.variable(0.0)
                    with k.loop(0, columns, k.width) as p:
                        along.set(along.value + du.load(t * columns + p) * x_chunk.load(t * columns + p))
                    to_later.store_scalar(t, k.sum_lanes(along.value) * decays.to_end.scalar(t))
                tiles.product(
                    du, columns, decays.between, 1, CHUNK, dy, columns, padded, columns, padded,
                    start=du, scale=decays.to_end, scale_row=1, first_slope=1,
                )  # fmt: skip
                with k.loop(0, tokens) as t:
                    step = decays.step.broadcast(t)
                    with k.loop(0, columns, k.width) as p:
                        here = t * columns + p
                        dx.store(offset + t * out_token + p, step * du.load(here) + D_head.load(p) * dy.load(here), headdim - p)
                with k.loop(0, columns, k.width) as p:
                    # summed by chunk, then over chunks: rounding stays small over long sequences
                    along = k.variable(0.0)
                    with k.loop(0, tokens) as t:
                        along.set(along.value + dy.load(t * columns + p) * x_chunk.load(t * columns + p))
                    dD_head.store(p, dD_head.load(p) + along.value)

                tiles.product(dC_chunk, rows, dy_weighted, columns, 1, state, rows, padded, rows, columns)
                part_C = parts_C.at(own * rows * CHUNK)
                with k.loop(0, padded) as t:
                    along = k.variable(0.0)
                    with k.loop(0, rows, k.width) as n:
                        here = t * rows + n
                        value = dC_chunk.load(here)
                        along.set(along.value + value * C_chunk.load(here))
                        add_to(k, part_C, here, value, adds)
                    from_earlier.store_scalar(t, k.sum_lanes(along.value))
                part_B = parts_B.at(own * rows * CHUNK)
                present = k.builder.select(adds.ir, part_B.address, ir.Constant(PTR, None))
                tiles.product(
                    part_B, rows, x_weighted, columns, 1, dstate_turned, rows, padded, rows, columns,
                    start=Pointer(k, "float32", present),
                )  # fmt: skip

                total = k.variable(k.scalar(0.0))
                with k.loop(0, tokens, reverse=True) as t:
                    total.set(total.value + from_earlier.scalar(t))
                    of_decay.store_scalar(t, of_decay.scalar(t) + total.value)
                total.set(passing)
                with k.loop(0, tokens) as t:
                    step, later = decays.step.scalar(t), to_later.scalar(t)
                    along_decay = of_decay.scalar(t) + total.value
                    dA_total.set(dA_total.value + step * along_decay)
                    of_weight = of_step.scalar(t) + later
                    if dexponents is None:
                        of_weight = of_weight + rate * along_decay
                    else:
                        dexponents.store_scalar(start + t, along_decay)
                    ddt.store_scalar(lane * length + start + t, of_weight)
                    total.set(total.value + step * later)

                tiles.product(
                    dstate, columns, C_chunk, 1, rows, dy_weighted, columns, rows, columns, tokens,
                    start=dstate, scale=decays.whole,
                )  # fmt: skip
                tiles.transpose(dstate_turned, rows, dstate, columns, rows, columns)
        dA.store_scalar(lane, dA_total.value)
        if starts:
            copy(k, dinitial.at(lane * square), dstate_turned, square)


def collect(k: Kernel, dtype: str, room: int) -> None:
    """dB, dC (batch, length, groups, d_state) from the parts of the blocks, always added up in the same order. Task: as in prepare."""
    tiles = Tiles(k)
    dB, dC = k.pointer("dB", dtype), k.pointer("dC", dtype)
    B, C = k.pointer("packed_B", "float32"), k.pointer("packed_C", "float32")
    parts_B, parts_C, parts_K = (k.pointer(name, "float32") for name in ("parts_B", "parts_C", "parts_K"))
    length, groups, blocks, chunks, d_state, rows = (
        k.size(name) for name in ("length", "groups", "blocks", "chunks", "d_state", "rows")
    )
    memory = Room(k, room)
    sums = [memory.take(rows * CHUNK), memory.take(rows * CHUNK), memory.take(CHUNK * CHUNK)]
    chunk, batch_group = k.task % chunks, k.task / chunks
    start = chunk * CHUNK
    tokens = k.minimum(length - start, CHUNK)
    padded = (tokens + (TILE_ROWS - 1)) / TILE_ROWS * TILE_ROWS
    for total, parts, row in zip(sums, (parts_B, parts_C, parts_K), (rows, rows, k.integer(CHUNK))):
        with k.loop(0, blocks) as block:
            part = parts.at(((batch_group * blocks + block) * chunks + chunk) * row * CHUNK)
            with k.loop(0, padded * row, k.width) as i:
                add_to(k, total, i, part.load(i), block > 0)
    dB_chunk, dC_chunk, K = sums
    B_chunk, C_chunk = B.at(k.task * rows * CHUNK), C.at(k.task * rows * CHUNK)
    tiles.product(dC_chunk, rows, K, CHUNK, 1, B_chunk, rows, padded, rows, 0, start=dC_chunk, last_slope=1)
    tiles.product(dB_chunk, rows, K, 1, CHUNK, C_chunk, rows, padded, rows, padded, start=dB_chunk, first_slope=1)
    with k.loop(0, tokens) as t, k.loop(0, rows, k.width) as n:
        token = (batch_group / groups * length + start + t) * groups + batch_group % groups
        for out, values in ((dB, dB_chunk), (dC, dC_chunk)):
            out.store(token * d_state + n, values.load(t * rows + n), d_state - n)


def copy(k: Kernel, out: Pointer, source: Pointer, count: Value) -> None:
    with k.loop(0, count, k.width) as i:
        out.store(i, source.load(i))


def clear(k: Kernel, out: Pointer, count: Value) -> None:
    with k.loop(0, count, k.width) as i:
        out.store(i, k.vector(0.0))


def dot(k: Kernel, a: Pointer, b: Pointer, count: Value) -> Value:
    """Sum of products as a scalar, in four sums that do not wait for each other where count allows."""
    sums = [k.variable(0.0) for _ in range(4)]
    whole = count / (4 * k.width) * (4 * k.width)
    with k.loop(0, whole, 4 * k.width) as i:
        for j, total in enumerate(sums):
            total.set(total.value + a.load(i + j * k.width) * b.load(i + j * k.width))
    with k.loop(whole, count, k.width) as i:
        sums[0].set(sums[0].value + a.load(i) * b.load(i))
    return k.sum_lanes((sums[0].value + sums[1].value) + (sums[2].value + sums[3].value))


def add_to(k: Kernel, out: Pointer, offset: Value, value: Value, adds: Value) -> None:
    """out += value where adds, else out = value: what was there before may be anything."""
    earlier = k.builder.select(adds.ir, out.load(offset).ir, k.vector(0.0).ir)
    out.store(offset, Value(k, earlier) + value)



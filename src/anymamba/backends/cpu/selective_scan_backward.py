"""The backward kernel of the Mamba-1 scan.

With dh the gradient of the state, from the last step to the first:

    dh[t, n] = C[t, n] dy[t] + a[t+1, n] dh[t+1, n]                 a[t, n] = exp(dt[t] A[n])
    dC[t, n] = sum over channels of dy[t] h[t, n]                   dB[t, n] = sum over channels of dh[t, n] dt[t] u[t]
    d(dt u)[t] = sum over n of dh[t, n] B[t, n]                     q[t, n] = a[t, n] dh[t, n] h[t-1, n]
    ddt[t] = sum over n of q[t, n] A[n]  +  u[t] d(dt u)[t]         dA[n] = sum over t of q[t, n] dt[t]

Tiles are swept backwards. In each, the states are computed again from the one that the forward pass kept. Sums over time are
taken tile by tile, sums over channels in the lanes of a task and then over tasks, always in the same order.
"""

from __future__ import annotations

import math

from anymamba.backends.cpu.emit import Kernel, Pointer, Value
from anymamba.backends.cpu.selective_scan_task import TILE, Options, Task, blocking
from anymamba.backends.cpu.vecmath import LOG2E, exp2, sigmoid, softplus_and_derivative


class _Tile:
    """Scratch for one block in one tile, each (TILE, lanes): dt and dt u; y and its gradient; the gradients of dt (through the
    decay) and of dt u; what softplus and the gate hand on. h and decay: (TILE + 1, states, lanes) and (TILE, states, lanes)."""

    def __init__(self, k: Kernel, lanes: int, states: int) -> None:
        self.dt, self.dtu, self.y, self.dy, self.ddt, self.ddtu = (k.scratch(TILE * lanes) for _ in range(6))
        self.softplus_slope, self.gate_slope = (k.scratch(TILE * lanes) for _ in range(2))
        self.h = k.scratch((TILE + 1) * states * lanes)
        self.decay = k.scratch(TILE * states * lanes)


def backward(k: Kernel, o: Options) -> None:
    """dA, dD, ddelta_bias are partial sums of one sequence; dB, dC of one task: (batch, groups, runs, length, d_state)."""
    cut = blocking(k.width, o.state, backward=True)
    task = Task(k, o, cut)
    w, lanes, vectors = k.width, task.lanes, range(cut.vectors)
    B, C = task.maps("B", o.B), task.maps("C", o.C)
    dout, dout_time = task.sequence("dout", o.u)
    du, du_time = task.sequence("du", o.u)
    ddelta, ddelta_time = task.sequence("ddelta", o.delta)
    dz, dz_time = task.sequence("dz", o.z) if o.z else (dout, dout_time)
    rows_ahead = [*task.inputs, (dout, dout_time), (du, du_time), (ddelta, ddelta_time)] + ([(dz, dz_time)] if o.z else [])
    kept = k.pointer("kept", "float32")
    dA_out, dD_out, dbias_out = (k.pointer(name, "float32") for name in ("dA", "dD", "ddelta_bias"))
    dB_out, dC_out = (k.pointer(name, "float32").at(k.task * task.length * o.state) for name in ("dB", "dC"))

    A, carry, dA = task.packed(), task.packed(), task.packed()
    dD, dbias = (k.scratch(cut.blocks * lanes) for _ in range(2))
    dB, dC = (k.scratch(TILE * o.state * w) for _ in range(2))
    scratch = _Tile(k, lanes, cut.states)

    task.pack(task.A, task.A_channel, task.A_state, A, LOG2E)
    task.clear(carry)
    task.clear(dA)
    for sums in (dD, dbias):
        with k.loop(0, task.blocks * lanes, w) as i:
            sums.store(i, 0.0)
    with k.loop(0, task.tiles, reverse=True) as tile:
        start = tile * TILE
        steps = k.minimum(TILE, task.length - start)
        B.read(start, steps)
        C.read(start, steps)
        with k.loop(0, steps * (o.state * w), w) as i:
            dB.store(i, 0.0)
            dC.store(i, 0.0)
        with k.loop(0, task.blocks) as block:
            channel, left = task.channel(block)
            ahead = task.ahead(rows_ahead, start, block, -TILE)
            _prepare(k, o, task, scratch, start, steps, channel, left, dout, dout_time, ahead)
            before = task.kept(kept, tile, block)
            packs = task.of_block(A, block), before, task.of_block(carry, block), task.of_block(dA, block)
            for first, count in task.state_groups():
                block_A, block_before, block_carry, block_dA = (pack.at(first * lanes) for pack in packs)
                tile_B, tile_C = B.tile.at(first), C.tile.at(first)
                _recompute(task, count, steps, scratch, block_before, block_A, tile_B, tile_C)
                shares = dB.at(first * w), dC.at(first * w)
                _sweep(task, count, steps, scratch, block_A, tile_B, tile_C, block_carry, block_dA, *shares)
            dD_sum, dbias_sum = ([k.variable(0.0) for _ in vectors] for _ in range(2))
            with k.loop(0, steps) as t:
                for v in vectors:
                    c, active, at = channel + v * w, left - v * w, t * lanes + v * w
                    u = task.u.load((start + t) * task.u_time + c, active)
                    y, dy, drive = scratch.y.load(at), scratch.dy.load(at), scratch.ddtu.load(at)
                    du_t = drive * scratch.dt.load(at)
                    if o.D:
                        d = task.D.load(c, active)
                        du_t, y = du_t + dy * d, y + d * u
                        dD_sum[v].add(dy * u)
                    dx = scratch.ddt.load(at) * math.log(2) + drive * u
                    if o.delta_softplus:
                        dx = dx * scratch.softplus_slope.load(at)
                    dbias_sum[v].add(dx)
                    du.store((start + t) * du_time + c, du_t, active)
                    ddelta.store((start + t) * ddelta_time + c, dx, active)
                    if o.z:
                        dz.store((start + t) * dz_time + c, scratch.gate_slope.load(at) * y, active)
            for v in vectors:
                at = block * lanes + v * w
                dD.store(at, dD.load(at) + dD_sum[v].value)
                dbias.store(at, dbias.load(at) + dbias_sum[v].value)
        with k.loop(0, steps * o.state) as i:
            dB_out.store_scalar(start * o.state + i, k.sum_lanes(dB.load(i * w)))
            dC_out.store_scalar(start * o.state + i, k.sum_lanes(dC.load(i * w)))

    task.unpack(dA, dA_out.at(task.batch * (task.channels * o.state)))
    with k.loop(0, task.blocks) as block:
        channel, left = task.channel(block)
        for v in vectors:
            at, c, active = block * lanes + v * w, channel + v * w, left - v * w
            if o.D:
                dD_out.store(task.batch * task.channels + c, dD.load(at), active)
            if o.delta_bias:
                dbias_out.store(task.batch * task.channels + c, dbias.load(at), active)


def _prepare(
    k: Kernel, o: Options, task: Task, tile: _Tile, start: Value, steps: Value, channel: Value, left: Value,
    dout: Pointer, dout_time: Value, ahead: list[tuple[Pointer, Value]],
) -> None:  # fmt: skip
    w, lanes = k.width, task.lanes
    with k.loop(0, steps) as t:
        task.fetch(ahead, t)
        for v in range(task.vectors):
            c, active, at = channel + v * w, left - v * w, t * lanes + v * w
            x = task.biased_delta(start + t, c, active)
            if o.delta_softplus:
                x, slope = softplus_and_derivative(x)
                tile.softplus_slope.store(at, slope)
            tile.dt.store(at, x)
            tile.dtu.store(at, x * task.u.load((start + t) * task.u_time + c, active))
            dy = dout.load((start + t) * dout_time + c, active)
            if o.z:
                z = task.z.load((start + t) * task.z_time + c, active)
                s = sigmoid(z)
                tile.gate_slope.store(at, dy * s * (1.0 + z * (1.0 - s)))
                dy = dy * z * s
            tile.dy.store(at, dy)
            for sums in (tile.y, tile.ddt, tile.ddtu):
                sums.store(at, 0.0)


def _recompute(
    task: Task, states: int, steps: Value, tile: _Tile, before: Pointer, A: Pointer, B: Pointer, C: Pointer
) -> None:
    """The first ``states`` states from where before, A, B and C point on, and their decays, into scratch; adds their part of y,
    which the gate's gradient needs."""
    k, o, lanes, vectors = task.k, task.o, task.lanes, range(task.vectors)
    w = k.width
    place = {(n, v): n * lanes + v * w for n in range(states) for v in vectors}
    size = task.cut.states * lanes
    state = {(n, v): k.variable(before.load(n * lanes + v * w)) for n, v in place}
    for pair, offset in place.items():
        tile.h.store(offset, state[pair].value)
    with k.loop(0, steps) as t:
        step = [tile.dt.load(t * lanes + v * w) for v in vectors]
        drive = [tile.dtu.load(t * lanes + v * w) for v in vectors]
        y = [tile.y.load(t * lanes + v * w) for v in vectors]
        for n in range(states):
            b, c = B.broadcast(t * o.state + n), C.broadcast(t * o.state + n)
            for v in vectors:
                decay = exp2(step[v] * A.load(n * lanes + v * w))
                new = decay * state[n, v].value + drive[v] * b
                state[n, v].set(new)
                y[v] = y[v] + new * c
                tile.decay.store(t * size + place[n, v], decay)
                tile.h.store((t + 1) * size + place[n, v], new)
        if o.z:
            for v in vectors:
                tile.y.store(t * lanes + v * w, y[v])


def _sweep(
    task: Task, states: int, steps: Value, tile: _Tile, A: Pointer, B: Pointer, C: Pointer,
    carry: Pointer, dA: Pointer, dB: Pointer, dC: Pointer,
) -> None:  # fmt: skip
    """The formulas at the top, backwards over the tile, for the first ``states`` states from where A, B, C and the sums point on.
    carry: a[t+1] dh[t+1]."""
    k, o, lanes, vectors = task.k, task.o, task.lanes, range(task.vectors)
    w = k.width
    place = {(n, v): n * lanes + v * w for n in range(states) for v in vectors}
    size = task.cut.states * lanes
    carried = {(n, v): k.variable(carry.load(n * lanes + v * w)) for n, v in place}
    dA_sum = {pair: k.variable(0.0) for pair in place}
    with k.loop(0, steps, reverse=True) as t:
        step, drive, dy, ddt, ddtu = (
            [row.load(t * lanes + v * w) for v in vectors] for row in (tile.dt, tile.dtu, tile.dy, tile.ddt, tile.ddtu)
        )
        for n in range(states):
            b, c = B.broadcast(t * o.state + n), C.broadcast(t * o.state + n)
            at = (t * o.state + n) * w
            dB_n, dC_n = dB.load(at), dC.load(at)
            for v in vectors:
                offset = t * size + place[n, v]
                dh = carried[n, v].value + dy[v] * c
                dC_n = dC_n + dy[v] * tile.h.load(offset + size)
                dB_n = dB_n + dh * drive[v]
                ddtu[v] = ddtu[v] + dh * b
                dh = dh * tile.decay.load(offset)
                carried[n, v].set(dh)
                q = dh * tile.h.load(offset)
                ddt[v] = ddt[v] + q * A.load(n * lanes + v * w)
                dA_sum[n, v].add(q * step[v])
            dB.store(at, dB_n)
            dC.store(at, dC_n)
        for v in vectors:
            tile.ddt.store(t * lanes + v * w, ddt[v])
            tile.ddtu.store(t * lanes + v * w, ddtu[v])
    for (n, v), value in carried.items():
        at_n = n * lanes + v * w
        carry.store(at_n, value.value)
        dA.store(at_n, dA.load(at_n) + dA_sum[n, v].value)

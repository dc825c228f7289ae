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

from anymamba.backends.cpu.jit.emit import Kernel, Pointer, Value
from anymamba.backends.cpu.jit.vecmath import LOG2E, exp2, sigmoid, softplus_and_derivative
from anymamba.backends.cpu.scan.selective_scan_task import TILE, Options, Task, blocking


class _Tile:
    """Scratch for one block in one tile, each (TILE, lanes): dt and dt u; y and its gradient; the gradients of dt (through the
    decay) and of dt u; what softplus and the gate hand on. h and decay: (TILE + 1, states, lanes) and (TILE, states, lanes)."""

    def __init__(self, k: Kernel, lanes: int, states: int) -> None:
        self.dt, self.dtu, self.y, self.dy, self.ddt, self.ddtu = (k.scratch(TILE * lanes) for _ in range(6))
        self.softplus_slope, self.gate_slope = (k.scratch(TILE * lanes) for _ in range(2))
        self.h = k.scratch((TILE + 1) * states * lanes)
        self.decay = k.scratch(TILE * states * lanes)


def backward(k: Kernel, o: Options) -> None:
    """dA, dD, ddelta_bias are partial sums of one sequence; dB, dC of one task: (batch, groups, runs, length, d_state). dinitial: the
    gradient of the state before the first token, (batch, channels, d_state)."""
    cut = blocking(k.width, o.state, backward=True)
    task = Task(k, o, cut)
    w = k.width
    B, C = task.maps("B", o.B), task.maps("C", o.C)
    dout, dout_time = task.sequence("dout", o.u)
    du, du_time = task.sequence("du", o.u)
    ddelta, ddelta_time = task.sequence("ddelta", o.delta)
    dz, dz_time = task.sequence("dz", o.z) if o.z else (dout, dout_time)
    rows_ahead = [*task.inputs, (dout, dout_time), (du, du_time), (ddelta, ddelta_time)] + ([(dz, dz_time)] if o.z else [])
    saved_states = k.pointer("saved_states", "float32")
    dA_out, dD_out, dbias_out = (k.pointer(name, "float32") for name in ("dA", "dD", "ddelta_bias"))
    dB_out, dC_out = (k.pointer(name, "float32").at(k.task * task.length * o.state) for name in ("dB", "dC"))

    A, carry, dA = task.packed(), task.packed(), task.packed()
    dD, dbias = (k.scratch(cut.blocks * w) for _ in range(2))
    dB, dC = (k.scratch(TILE * o.state * w) for _ in range(2))
    scratch = _Tile(k, w, cut.states)

    task.pack(task.A, task.A_channel, task.A_state, A, LOG2E)
    task.clear(carry)
    task.clear(dA)
    for sums in (dD, dbias):
        with k.loop(0, task.blocks * w, w) as i:
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
            before = task.state_of_tile(saved_states, tile, block)
            packs = task.of_block(A, block), before, task.of_block(carry, block), task.of_block(dA, block)
            for first, count in task.state_groups():
                block_A, block_before, block_carry, block_dA = (pack.at(first * w) for pack in packs)
                tile_B, tile_C = B.tile.at(first), C.tile.at(first)
                _recompute(task, count, start, steps, scratch, block_before, block_A, tile_B, tile_C)
                shares = dB.at(first * w), dC.at(first * w)
                _sweep(task, count, start, steps, scratch, block_A, tile_B, tile_C, block_carry, block_dA, *shares)
            dD_sum, dbias_sum = k.variable(0.0), k.variable(0.0)
            with k.loop(0, steps) as t:
                padding = task.is_padding(start + t)
                u = task.u.load((start + t) * task.u_time + channel, left)
                y, dy, drive = (row.load(t * w) for row in (scratch.y, scratch.dy, scratch.ddtu))
                du_t = drive * scratch.dt.load(t * w)
                if o.D:
                    d = task.D.load(channel, left)
                    du_t, y = du_t + dy * d, y + d * u
                    dD_sum.add(task.unless(padding, dy * u))
                dx = scratch.ddt.load(t * w) * math.log(2) + drive * u
                if o.delta_softplus:
                    dx = dx * scratch.softplus_slope.load(t * w)
                dx = task.unless(padding, dx)
                dbias_sum.add(dx)
                du.store((start + t) * du_time + channel, task.unless(padding, du_t), left)
                ddelta.store((start + t) * ddelta_time + channel, dx, left)
                if o.z:
                    dz_t = task.unless(padding, scratch.gate_slope.load(t * w) * y)
                    dz.store((start + t) * dz_time + channel, dz_t, left)
            dD.store(block * w, dD.load(block * w) + dD_sum.value)
            dbias.store(block * w, dbias.load(block * w) + dbias_sum.value)
        with k.loop(0, steps * o.state) as i:
            dB_out.store_scalar(start * o.state + i, k.sum_lanes(dB.load(i * w)))
            dC_out.store_scalar(start * o.state + i, k.sum_lanes(dC.load(i * w)))

    task.unpack(dA, dA_out.at(task.batch * (task.channels * o.state)))
    if o.initial:
        task.unpack(carry, k.pointer("dinitial", "float32").at(task.batch * (task.channels * o.state)))
    with k.loop(0, task.blocks) as block:
        channel, left = task.channel(block)
        at = task.batch * task.channels + channel
        if o.D:
            dD_out.store(at, dD.load(block * w), left)
        if o.delta_bias:
            dbias_out.store(at, dbias.load(block * w), left)


def _prepare(
    k: Kernel, o: Options, task: Task, tile: _Tile, start: Value, steps: Value, channel: Value, left: Value,
    dout: Pointer, dout_time: Value, ahead: list[tuple[Pointer, Value]],
) -> None:  # fmt: skip
    w = k.width
    with k.loop(0, steps) as t:
        task.fetch(ahead, t)
        x = task.biased_delta(start + t, channel, left)
        if o.delta_softplus:
            x, slope = softplus_and_derivative(x)
            tile.softplus_slope.store(t * w, slope)
        tile.dt.store(t * w, x)
        tile.dtu.store(t * w, x * task.u.load((start + t) * task.u_time + channel, left))
        dy = dout.load((start + t) * dout_time + channel, left)
        if o.z:
            z = task.z.load((start + t) * task.z_time + channel, left)
            s = sigmoid(z)
            tile.gate_slope.store(t * w, dy * s * (1.0 + z * (1.0 - s)))
            dy = dy * z * s
        tile.dy.store(t * w, dy)
        for sums in (tile.y, tile.ddt, tile.ddtu):
            sums.store(t * w, 0.0)


def _recompute(
    task: Task, states: int, start: Value, steps: Value, tile: _Tile, before: Pointer, A: Pointer, B: Pointer, C: Pointer
) -> None:
    """The first ``states`` states from where before, A, B and C point on, and their decays, into scratch; adds their part of y,
    which the gate's gradient needs."""
    k, w, row, size = task.k, task.lanes, task.o.state, task.cut.states * task.lanes
    state = [k.variable(before.load(n * w)) for n in range(states)]
    for n in range(states):
        tile.h.store(n * w, state[n].value)
    with k.loop(0, steps) as t:
        if task.marks is not None:  # the last token was padding, perhaps, and stored nothing
            for n in range(states):
                tile.h.store(t * size + n * w, state[n].value)
        with task.at_token(start + t, state):
            step, drive, y = tile.dt.load(t * w), tile.dtu.load(t * w), tile.y.load(t * w)
            for n in range(states):
                decay = exp2(step * A.load(n * w))
                new = decay * state[n].value + drive * B.broadcast(t * row + n)
                state[n].set(new)
                y = y + new * C.broadcast(t * row + n)
                tile.decay.store(t * size + n * w, decay)
                tile.h.store((t + 1) * size + n * w, new)
            if task.o.z:
                tile.y.store(t * w, y)


def _sweep(
    task: Task, states: int, start: Value, steps: Value, tile: _Tile, A: Pointer, B: Pointer, C: Pointer,
    carry: Pointer, dA: Pointer, dB: Pointer, dC: Pointer,
) -> None:  # fmt: skip
    """The formulas at the top, backwards over the tile from ``start`` on, for the first ``states`` states from where A, B, C and the
    sums point on. carry: a[t+1] dh[t+1]."""
    k, w, row, size = task.k, task.lanes, task.o.state, task.cut.states * task.lanes
    carried = [k.variable(carry.load(n * w)) for n in range(states)]
    dA_sum = [k.variable(0.0) for _ in range(states)]
    with k.loop(0, steps, reverse=True) as t, task.at_token(start + t):
        starts = task.is_start(start + t)
        step, drive, dy, ddt, ddtu = (r.load(t * w) for r in (tile.dt, tile.dtu, tile.dy, tile.ddt, tile.ddtu))
        for n in range(states):
            at, sums_at = t * size + n * w, (t * row + n) * w
            dh = carried[n].value + dy * C.broadcast(t * row + n)
            dC.store(sums_at, dC.load(sums_at) + dy * tile.h.load(at + size))
            dB.store(sums_at, dB.load(sums_at) + dh * drive)
            ddtu = ddtu + dh * B.broadcast(t * row + n)
            dh = dh * tile.decay.load(at)
            carried[n].set(task.unless(starts, dh))
            q = dh * task.unless(starts, tile.h.load(at))
            ddt = ddt + q * A.load(n * w)
            dA_sum[n].add(q * step)
        tile.ddt.store(t * w, ddt)
        tile.ddtu.store(t * w, ddtu)
    for n in range(states):
        carry.store(n * w, carried[n].value)
        dA.store(n * w, dA.load(n * w) + dA_sum[n].value)

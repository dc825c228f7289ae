"""The forward kernel of the Mamba-1 scan."""

from __future__ import annotations

from anymamba.backends.cpu.jit.emit import Kernel, Pointer, Value
from anymamba.backends.cpu.jit.vecmath import LOG2E, exp2, silu, softplus
from anymamba.backends.cpu.scan.selective_scan_task import TILE, Options, Task, blocking


def forward(k: Kernel, o: Options, keep: bool, last: bool) -> None:
    """keep: store the state before every tile to ``saved_states``, see Task.state_of_tile. last: store the last state,
    (batch, channels, d_state)."""
    cut = blocking(k.width, o.state, backward=False)
    task = Task(k, o, cut)
    w = k.width
    out, out_time = task.sequence("out", o.u)
    B, C = task.maps("B", o.B), task.maps("C", o.C)
    A, h = task.packed(), task.packed()
    dt, dtu, y = (k.scratch(TILE * w) for _ in range(3))
    saved_states = k.pointer("saved_states", "float32")
    last_state, last_state_batch = k.pointer("last_state", "float32"), k.size("last_state_batch")

    task.pack(task.A, task.A_channel, task.A_state, A, LOG2E)
    if o.initial:
        initial = k.pointer("initial", "float32").at(task.batch * k.size("initial_batch"))
        task.pack(initial, k.size("initial_channel"), k.size("initial_state"), h, 1.0)
    else:
        task.clear(h)
    with k.loop(0, task.tiles) as tile:
        start = tile * TILE
        steps = k.minimum(TILE, task.length - start)
        B.read(start, steps)
        C.read(start, steps)
        with k.loop(0, task.blocks) as block:
            channel, left = task.channel(block)
            block_A, block_h = task.of_block(A, block), task.of_block(h, block)
            if keep:
                before = task.state_of_tile(saved_states, tile, block)
                with k.loop(0, o.state * w, w) as i:
                    before.store(i, block_h.load(i))
            ahead = task.ahead([*task.inputs, (out, out_time)], start, block)
            with k.loop(0, steps) as t:
                task.fetch(ahead, t)
                x = task.biased_delta(start + t, channel, left)
                x = softplus(x) if o.delta_softplus else x
                dt.store(t * w, x)
                dtu.store(t * w, x * task.u.load((start + t) * task.u_time + channel, left))
                y.store(t * w, 0.0)
            for first, count in task.state_groups():
                at = first * w
                _walk(task, count, start, steps, B.tile.at(first), C.tile.at(first), block_A.at(at), block_h.at(at), dt, dtu, y)
            with k.loop(0, steps) as t:
                result = y.load(t * w)
                if o.D:
                    u = task.u.load((start + t) * task.u_time + channel, left)
                    result = result + task.D.load(channel, left) * u
                if o.z:
                    result = result * silu(task.z.load((start + t) * task.z_time + channel, left))
                out.store((start + t) * out_time + channel, task.unless(task.is_padding(start + t), result), left)
    if last:
        task.unpack(h, last_state.at(task.batch * last_state_batch))


def _walk(
    task: Task, states: int, start: Value, steps: Value, B: Pointer, C: Pointer, A: Pointer, h: Pointer,
    dt: Pointer, dtu: Pointer, y: Pointer,
) -> None:  # fmt: skip
    """The recurrence over the tile from ``start`` on for the first ``states`` states from where h, A, B and C point on, which stay in
    registers; adds their part of y."""
    k, w, row = task.k, task.lanes, task.o.state
    state = [k.variable(h.load(n * w)) for n in range(states)]
    with k.loop(0, steps) as t, task.at_token(start + t, state):
        step, drive, total = dt.load(t * w), dtu.load(t * w), y.load(t * w)
        for n in range(states):
            decay = exp2(step * A.load(n * w))
            new = decay * state[n].value + drive * B.broadcast(t * row + n)
            state[n].set(new)
            total = total + new * C.broadcast(t * row + n)
        y.store(t * w, total)
    for n in range(states):
        h.store(n * w, state[n].value)

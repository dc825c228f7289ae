"""The forward kernel of the Mamba-1 scan."""

from __future__ import annotations

from anymamba.backends.cpu.emit import Kernel, Pointer, Value
from anymamba.backends.cpu.selective_scan_task import TILE, Options, Task, blocking
from anymamba.backends.cpu.vecmath import LOG2E, exp2, silu, softplus


def forward(k: Kernel, o: Options, keep: bool, last: bool) -> None:
    """keep: store the state before every tile to ``kept``, see Task.kept. last: store the last state, (batch, channels, d_state)."""
    cut = blocking(k.width, o.state, backward=False)
    task = Task(k, o, cut)
    w, lanes, vectors = k.width, task.lanes, range(cut.vectors)
    out, out_time = task.sequence("out", o.u)
    B, C = task.maps("B", o.B), task.maps("C", o.C)
    A, h = task.packed(), task.packed()
    dt, dtu, y = (k.scratch(TILE * lanes) for _ in range(3))
    kept = k.pointer("kept", "float32")
    last_state, last_state_batch = k.pointer("last_state", "float32"), k.size("last_state_batch")

    task.pack(task.A, task.A_channel, task.A_state, A, LOG2E)
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
                before = task.kept(kept, tile, block)
                with k.loop(0, o.state * lanes, w) as i:
                    before.store(i, block_h.load(i))
            ahead = task.ahead([*task.inputs, (out, out_time)], start, block)
            with k.loop(0, steps) as t:
                task.fetch(ahead, t)
                for v in vectors:
                    c, active = channel + v * w, left - v * w
                    x = task.biased_delta(start + t, c, active)
                    x = softplus(x) if o.delta_softplus else x
                    dt.store(t * lanes + v * w, x)
                    dtu.store(t * lanes + v * w, x * task.u.load((start + t) * task.u_time + c, active))
                    y.store(t * lanes + v * w, 0.0)
            for first, count in task.state_groups():
                at = first * lanes
                _walk(task, count, steps, B.tile.at(first), C.tile.at(first), block_A.at(at), block_h.at(at), dt, dtu, y)
            with k.loop(0, steps) as t:
                for v in vectors:
                    c, active = channel + v * w, left - v * w
                    result = y.load(t * lanes + v * w)
                    if o.D:
                        u = task.u.load((start + t) * task.u_time + c, active)
                        result = result + task.D.load(c, active) * u
                    if o.z:
                        result = result * silu(task.z.load((start + t) * task.z_time + c, active))
                    out.store((start + t) * out_time + c, result, active)
    if last:
        task.unpack(h, last_state.at(task.batch * last_state_batch))


def _walk(
    task: Task, states: int, steps: Value, B: Pointer, C: Pointer, A: Pointer, h: Pointer, dt: Pointer, dtu: Pointer, y: Pointer
) -> None:
    """The recurrence over one tile for the first ``states`` states from where h, A, B and C point on, which stay in registers; adds their
    part of y."""
    k, lanes, vectors, row = task.k, task.lanes, range(task.vectors), task.o.state
    w = k.width
    state = {(n, v): k.variable(h.load(n * lanes + v * w)) for n in range(states) for v in vectors}
    with k.loop(0, steps) as t:
        step = [dt.load(t * lanes + v * w) for v in vectors]
        drive = [dtu.load(t * lanes + v * w) for v in vectors]
        total = [y.load(t * lanes + v * w) for v in vectors]
        for n in range(states):
            b, c = B.broadcast(t * row + n), C.broadcast(t * row + n)
            for v in vectors:
                decay = exp2(step[v] * A.load(n * lanes + v * w))
                new = decay * state[n, v].value + drive[v] * b
                state[n, v].set(new)
                total[v] = total[v] + new * c
        for v in vectors:
            y.store(t * lanes + v * w, total[v])
    for (n, v), value in state.items():
        h.store(n * lanes + v * w, value.value)

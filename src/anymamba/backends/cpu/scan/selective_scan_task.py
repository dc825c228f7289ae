"""What the forward and the backward kernel of the Mamba-1 scan share: options, blocks of channels, tiles of time.

    h[t, n] = exp(dt[t] A[n]) h[t-1, n] + dt[t] u[t] B[t, n]        y[t] = sum over n of C[t, n] h[t, n] + D u[t]

A task is one sequence and a run of neighbouring channels, cut into blocks of one vector. Time is swept in tiles, all blocks of
the task within each tile: rows of a (batch, length, channels) tensor lie pages apart, and a narrower task would pay an address
translation for every cache line. What does not depend on the state index n (softplus, dt u, the gate) is computed once a step
into scratch; the states are then walked in groups that fit in registers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from anymamba.backends.cpu.jit.emit import Kernel, Pointer, Value, Variable

TILE = 32
"""Steps in a tile, and between two states that the forward pass keeps for the backward."""

START, PADDING = 1, 2
"""Marks of tokens, (batch, length): a document starts here, so the state before is dropped; not a token, so the state passes. Else 0."""


@dataclass(frozen=True)
class Options:
    """What is compiled in. u, delta, z, B, C: their dtypes, z None without a gate; the output has u's. state: d_state. initial: is there
    a state to start from. documents: are there marks."""

    u: str
    delta: str
    z: str | None
    B: str
    C: str
    state: int
    D: bool
    delta_bias: bool
    delta_softplus: bool
    initial: bool = False
    documents: bool = False


@dataclass(frozen=True)
class Blocking:
    """states: of a block that are walked together, their values in registers. blocks: at most in a task."""

    states: int
    blocks: int


def blocking(width: int, state: int, backward: bool) -> Blocking:
    """AVX-512 and NEON have 32 vector registers, AVX2 and SSE 16; the backward pass carries two values a state, not one.

    Two vectors a block were slower on every width (Zen 4)."""
    # the states of all blocks of a task, and as many decay rates, stay in the second level cache
    return Blocking(4 if backward and width < 16 else 8, max(1, min(384 // width, 16384 // (state * width))))


class Task:
    """The arguments that both passes share, and where this task's part of them begins."""

    def __init__(self, k: Kernel, o: Options, cut: Blocking) -> None:
        self.k, self.o, self.cut = k, o, cut
        self.lanes = k.width
        self.length, self.channels, self.groups = k.size("length"), k.size("channels"), k.size("groups")
        runs, run_blocks = k.size("runs"), k.size("run_blocks")
        self.tiles = (self.length + (TILE - 1)) / TILE
        self.batch, rest = k.task / (self.groups * runs), k.task % (self.groups * runs)
        self.group, run = rest / runs, rest % runs
        self.group_channels = self.channels / self.groups
        self.group_blocks = (self.group_channels + (self.lanes - 1)) / self.lanes
        self.first_block = run * run_blocks
        self.blocks = k.minimum(run_blocks, self.group_blocks - self.first_block)
        self.u, self.u_time = self.sequence("u", o.u)
        self.delta, self.delta_time = self.sequence("delta", o.delta)
        self.inputs = [(self.u, self.u_time), (self.delta, self.delta_time)]
        if o.z:
            self.z, self.z_time = self.sequence("z", o.z)
            self.inputs.append((self.z, self.z_time))
        self.D, self.bias = k.pointer("D", "float32"), k.pointer("delta_bias", "float32")
        self.A, self.A_channel, self.A_state = k.pointer("A", "float32"), k.size("A_channel"), k.size("A_state")
        self.marks = k.pointer("marks", "int32").at(self.batch * self.length) if o.documents else None

    def sequence(self, name: str, dtype: str) -> tuple[Pointer, Value]:
        """A (batch, length, channels) tensor with neighbouring channels side by side: its sequence, and the stride of time."""
        pointer = self.k.pointer(name, dtype)
        return pointer.at(self.batch * self.k.size(f"{name}_batch")), self.k.size(f"{name}_time")

    def channel(self, block: Value) -> tuple[Value, Value]:
        """First channel of a block, and the channels of the group from there on."""
        inside = (self.first_block + block) * self.lanes
        return self.group * self.group_channels + inside, self.group_channels - inside

    def maps(self, name: str, dtype: str) -> Maps:
        return Maps(self, name, dtype)

    def biased_delta(self, t: Value, channel: Value, active: Value) -> Value:
        """delta + delta_bias of a vector of channels."""
        x = self.delta.load(t * self.delta_time + channel, active)
        return x + self.bias.load(channel, active) if self.o.delta_bias else x

    @contextmanager
    def at_token(self, t: Value, state: Sequence[Variable] = ()) -> Iterator[None]:
        """What is inside happens at tokens alone, not at padding; where a document starts, the state is zero before it."""
        if self.marks is None:
            yield
            return
        mark = self.marks.scalar(t)
        with self.k.if_(mark < PADDING):
            if state:
                with self.k.if_(mark.equals(START)):
                    for part in state:
                        part.set(0.0)
            yield

    def is_padding(self, t: Value) -> Value | None:
        """None where there are no marks."""
        return None if self.marks is None else self.marks.scalar(t).equals(PADDING)

    def is_start(self, t: Value) -> Value | None:
        """Of a document; None where there are no marks."""
        return None if self.marks is None else self.marks.scalar(t).equals(START)

    def unless(self, condition: Value | None, value: Value) -> Value:
        """The vector, or 0 in every lane where the condition holds."""
        return value if condition is None else self.k.select(condition, 0.0, value)

    def ahead(self, rows: list[tuple[Pointer, Value]], start: Value, block: Value, tile_step: int = TILE) -> list[tuple[Pointer, Value]]:
        """Where the next block, or after the last the next tile, begins in each (tensor, time stride): what ``fetch`` asks for.

        Rows lie pages apart, where no processor prefetches by itself. tile_step: TILE, or -TILE when time runs backwards."""
        k = self.k
        is_last = block + 1 >= self.blocks
        channel, _ = self.channel(k.select(is_last, 0, block + 1))
        row = k.select(is_last, start + tile_step, start)
        return [(pointer.at(row * time + channel), time) for pointer, time in rows]

    def fetch(self, ahead: list[tuple[Pointer, Value]], t: Value) -> None:
        for pointer, time in ahead:
            for byte in range(0, self.lanes * pointer.bytes, 64):
                pointer.prefetch(t * time + byte // pointer.bytes)

    def state_groups(self) -> Iterator[tuple[Value, int]]:
        """(first state, states) of each group that is walked together: a loop over the whole ones, then what is left."""
        k, size = self.k, self.cut.states
        whole = self.o.state // size * size
        if whole:
            with k.loop(0, whole, size) as first:
                yield first, size
        if whole < self.o.state:
            yield k.integer(whole), self.o.state - whole

    def packed(self) -> Pointer:
        """Scratch for a value per state of every block: (blocks, d_state, lanes)."""
        return self.k.scratch(self.cut.blocks * self.o.state * self.lanes)

    def of_block(self, packed: Pointer, block: Value) -> Pointer:
        return packed.at(block * (self.o.state * self.lanes))

    def clear(self, packed: Pointer) -> None:
        with self.k.loop(0, self.blocks * (self.o.state * self.lanes), self.k.width) as i:
            packed.store(i, 0.0)

    def state_of_tile(self, states: Pointer, tile: Value, block: Value) -> Pointer:
        """The state of a block before a tile, (d_state, lanes), in (batch, tiles, groups, blocks of a group, d_state, lanes)."""
        row = ((self.batch * self.tiles + tile) * self.groups + self.group) * self.group_blocks
        return states.at((row + self.first_block + block) * (self.o.state * self.lanes))

    def pack(self, matrix: Pointer, channel_stride: Value, state_stride: Value, packed: Pointer, scale: float) -> None:
        """Of each block, (channels, d_state) in memory to (d_state, lanes) in scratch, zero where there is no channel."""
        k, lanes = self.k, self.lanes
        with k.loop(0, self.blocks) as block:
            channel, left = self.channel(block)
            with k.loop(0, self.o.state) as n, k.loop(0, lanes) as lane:
                value = k.variable(k.scalar(0.0))
                with k.if_(lane < left):
                    value.set(matrix.scalar((channel + lane) * channel_stride + n * state_stride) * scale)
                packed.store_scalar((block * self.o.state + n) * lanes + lane, value.value)

    def unpack(self, packed: Pointer, matrix: Pointer) -> None:
        """The way back, to a contiguous (channels, d_state) matrix."""
        k, lanes = self.k, self.lanes
        with k.loop(0, self.blocks) as block:
            channel, left = self.channel(block)
            with k.loop(0, k.minimum(left, lanes)) as lane, k.loop(0, self.o.state) as n:
                value = packed.scalar((block * self.o.state + n) * lanes + lane)
                matrix.store_scalar((channel + lane) * self.o.state + n, value)


class Maps:
    """B or C, (batch, groups, length, d_state) with any strides: a tile at a time is copied to float32 scratch."""

    def __init__(self, task: Task, name: str, dtype: str) -> None:
        k = task.k
        self.task, self.memory = task, k.pointer(name, dtype)
        self.memory = self.memory.at(task.batch * k.size(f"{name}_batch") + task.group * k.size(f"{name}_group"))
        self.time_stride, self.state_stride = k.size(f"{name}_time"), k.size(f"{name}_state")
        self.tile = k.scratch(TILE * task.o.state)

    def read(self, start: Value, steps: Value) -> None:
        k, state = self.task.k, self.task.o.state
        with k.loop(0, steps) as t:
            row = self.memory.at((start + t) * self.time_stride)
            with k.loop(0, state) as n:
                self.tile.store_scalar(t * state + n, row.scalar(n * self.state_stride))

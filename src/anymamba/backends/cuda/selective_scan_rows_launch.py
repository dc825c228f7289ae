"""The Mamba-1 selective scan on NVIDIA cards where the steps of a channel lie side by side in memory: (batch, d_inner, length) as
mamba_ssm's callers have it. Layouts, memory and launches of kernels/rows_*.cu, which take any d_state, group and length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anymamba.backends.accelerator import processors, shared_memory
from anymamba.backends.cuda import memory, nvrtc
from anymamba.backends.cuda.prepared_launch import Launch

TYPES = {torch.float32: "float", torch.bfloat16: "bf16", torch.float16: "f16"}
ITEMS = 8
"""Steps of a lane."""


@dataclass(frozen=True)
class Sizes:
    """What plans look at. channels: of all sequences. group: channels that share B and C. constants: how many of B and C do not depend
    on time; matrix_bytes: of a value of those that do, together. wide: any of u, B and C is in float32."""

    channels: int
    group: int
    d_state: int
    constants: int
    matrix_bytes: int
    wide: bool
    device: torch.device

    @classmethod
    def of(cls, u: Tensor, B: Tensor, C: Tensor, d_state: int) -> Sizes:
        batch, channels, _ = u.shape
        moving = [x.element_size() for x in (B, C) if x.dim() > 2]
        wide = max(x.element_size() for x in (u, B, C)) == 4
        return cls(batch * channels, channels // _groups(B, C), d_state, 2 - len(moving), sum(moving), wide, u.device)


@dataclass(frozen=True)
class RowsPlan:
    """lanes: of a warp along time; the others have other channels. channels: of a lane. across: warps of a block with other channels.
    along: warps of a block that share a channel's length. blocks: of a multiprocessor that the compiler makes room for. unroll: states
    of the inner loop that are laid out in a row."""

    lanes: int
    channels: int
    across: int
    along: int = 1
    blocks: int = 1
    unroll: int = 1

    @property
    def width(self) -> int:
        """Channels of a block."""
        return self.across * 32 // self.lanes * self.channels

    @property
    def tile(self) -> int:
        """Steps of a block at a time."""
        return self.along * self.lanes * ITEMS

    @property
    def threads(self) -> int:
        return 32 * self.across * self.along

    def ring(self, sizes: Sizes) -> int:
        """Floats of shared memory for the next rows of B and C."""
        return 4 * self.threads * ITEMS // 4 * sizes.matrix_bytes

    @property
    def name(self) -> str:
        """All that is compiled into a kernel."""
        shape = f"{self.lanes} lanes x {self.channels}, {self.across} x {self.along} warps"
        return f"{shape} ({self.blocks} blocks, unroll {self.unroll})"

    def defines(self) -> dict[str, object]:
        return {
            "LT": self.lanes, "NC": self.channels, "WC": self.across, "WT": self.along, "MIN_BLOCKS": self.blocks, "UNROLL": self.unroll,
        }  # fmt: skip


    def narrower(self) -> RowsPlan | None:
        """The same for fewer channels a block."""
        if self.across > 1:
            return replace(self, across=self.across // 2, blocks=2 * self.blocks)
        if self.lanes < 32:
            return replace(self, lanes=2 * self.lanes)
        return replace(self, channels=1) if self.channels > 1 else None

    def forward_shared(self, sizes: Sizes) -> int:
        """Bytes of shared memory."""
        d_state = sizes.d_state
        floats = self.width * ((d_state + 1) * (4 if self.along > 1 else 2) + d_state * sizes.constants)
        return 4 * (floats + (4 * self.along * self.width if self.along > 1 else 0) + 4 + self.ring(sizes))

    def backward_shared(self, sizes: Sizes) -> int:
        d_state, constants = sizes.d_state, sizes.constants
        floats = 4 * self.together(d_state) * self.across * 32 // self.lanes * self.tile
        floats += self.width * (4 * (d_state + 1) + d_state * (self.along + 1) * constants)
        floats += self.channels * self.threads * d_state if self.private(d_state) else self.along * self.width * d_state
        return 4 * (floats + (8 * self.along * self.width if self.along > 1 else 0) + 4 + self.ring(sizes))

    def together(self, d_state: int) -> int:
        """States whose sums over channels are formed together."""
        return 1 if d_state == 1 or self.along > 1 else 2

    def private(self, d_state: int) -> bool:
        """Has every lane a place of its own for its part of A's gradient."""
        return self.channels * self.threads * d_state <= 8192


def forward_plan(sizes: Sizes) -> RowsPlan:
    """Few lanes along time where there are many channels: joining them takes fewer exchanges. Where channels are few, a warp takes one at
    a time, or several share one."""
    schedulers = 4 * processors(sizes.device)
    if sizes.channels >= 14 * schedulers:
        plan = RowsPlan(8, 2, 4, blocks=3 if sizes.wide else 4, unroll=2)
    elif sizes.channels >= schedulers:
        plan = RowsPlan(32, 1, 4, blocks=4 if sizes.wide else 5, unroll=2)
    else:
        plan = RowsPlan(32, 1, 1, 4, blocks=4 if sizes.wide else 5)
    return _fitting(plan, sizes, backward=False)


def backward_plan(sizes: Sizes) -> RowsPlan:
    schedulers = 4 * processors(sizes.device)
    small = shared_memory(sizes.device) < 128 * 1024  # compute capability 12.0, whose assembler spills where that of 9.0 does not
    if sizes.channels >= 14 * schedulers:
        two = RowsPlan(8, 2, 4, blocks=2, unroll=1 if sizes.wide else 2)
        plan = two if sizes.d_state >= 16 and not small else RowsPlan(8, 1, 4, blocks=2 if small else 3)
    else:
        plan = RowsPlan(16 if sizes.channels >= 6 * schedulers else 32, 1, 4, blocks=2 if small else 3)
    return _fitting(plan, sizes, backward=True)


def _fitting(plan: RowsPlan, sizes: Sizes, backward: bool) -> RowsPlan:
    """Not much wider than a group, and within shared memory."""
    limit = shared_memory(sizes.device)
    while True:
        shared = plan.backward_shared(sizes) if backward else plan.forward_shared(sizes)
        less = plan.narrower() if plan.width >= 2 * sizes.group or shared > limit else None
        if less is None:
            return plan
        plan = less


def suits(*tensors: Tensor | None) -> bool:
    """Are the dtypes known."""
    return all(x is None or x.dtype in TYPES for x in tensors)


def rows(x: Tensor) -> Tensor:
    """(batch, d_inner, length) with its steps side by side."""
    return x if x.stride(2) == 1 or x.shape[2] == 1 else _copy(x, x.shape[2])


def _copy(x: Tensor, pitch: int) -> Tensor:
    """(batch, channels, length) in rows of pitch steps, zero past the length."""
    out = torch.empty((x.shape[0], x.shape[1], pitch), dtype=x.dtype, device=x.device)
    copy_launch(x, pitch)(x.data_ptr(), out.data_ptr())
    return out


def copy_launch(x: Tensor, pitch: int) -> Launch:
    """Of _copy. Addresses: of x and of its copy."""
    batch, channels, length = x.shape
    kernel = nvrtc.kernel("rows_copy.cu", "rows_copy", {"TYPE": "float" if x.element_size() == 4 else "short"}, x.device)
    across, along = -(-channels // 64), -(-pitch // 64)
    return Launch(kernel, across * along * batch, 256, 0, [*x.stride(), channels, length, pitch, across, along])


def divides(size: int) -> int:
    """The largest power of 2, at most 16, that divides it."""
    return (size | 16) & -(size | 16)


def _alignment(*tensors: Tensor | None) -> int:
    """Bytes, at most 16, that divide the address of every row."""
    bits = 16
    for x in tensors:
        if x is not None:
            size = x.element_size()
            bits |= x.data_ptr() | x.stride(0) * size | x.stride(1) * size
    return bits & -bits


def _matrix(x: Tensor) -> Tensor:
    """B or C as (batch, ngroups, d_state, length), rows at 16-byte borders that can be read in whole ITEMS; constant in time as it is."""
    if x.dim() == 2:
        return x
    x = x if x.dim() == 4 else x.unsqueeze(1)
    batch, groups, states, length = x.shape
    if length % ITEMS == 0 and x.stride(3) == 1:
        size = x.element_size()
        if not (x.data_ptr() | x.stride(0) * size | x.stride(1) * size | x.stride(2) * size) & 15:
            return x
    pitch = -(-length // ITEMS) * ITEMS
    return _copy(x.reshape(batch, groups * states, length), pitch).view(batch, groups, states, pitch)


def _pointer(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


Beyond = tuple[bool, bool]
"""Is there a state before the first step, and are there marks of documents."""


def _strides(x: Tensor | None, *dims: int) -> list[int]:
    """In bytes."""
    return [0] * len(dims) if x is None else [x.stride(dim) * x.element_size() for dim in dims]


def _matrix_strides(*matrices: Tensor) -> tuple[list[int], list[int]]:
    """Bytes of those that change with time, elements of those that do not."""
    moving = [stride for x in matrices for stride in (_strides(x, 0, 1, 2) if x.dim() == 4 else [0, 0, 0])]
    return moving, [stride for x in matrices for stride in ((0, 0) if x.dim() == 4 else x.stride())]


def _options(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, bias: Tensor | None, softplus: bool,
    beyond: Beyond,
) -> dict[str, object]:  # fmt: skip
    def name(x: Tensor | None) -> str:
        return "float" if x is None else TYPES[x.dtype]

    return {
        "N": A.shape[1], "TU": name(u), "TDT": name(delta), "TZ": name(u if z is None else z), "TB": name(B), "TC": name(C),
        "TA": name(A), "TD": name(D), "TBIAS": name(bias), "SOFTPLUS": int(softplus), "HAS_D": int(D is not None),
        "HAS_Z": int(z is not None), "HAS_BIAS": int(bias is not None), "B_CONSTANT": int(B.dim() == 2), "C_CONSTANT": int(C.dim() == 2),
        "HAS_INITIAL": int(beyond[0]), "HAS_MARKS": int(beyond[1]),
    }  # fmt: skip


Given = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, "Tensor | None", "Tensor | None", "Tensor | None"]
"""u, delta, A, B, C, D, z, delta_bias."""


def as_rows(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, bias: Tensor | None) -> Given:
    """As the kernels read them; the same tensors where they are that already."""
    return rows(u), rows(delta), A, _matrix(B), _matrix(C), D, None if z is None else rows(z), bias


def _groups(B: Tensor, C: Tensor) -> int:
    return max(x.shape[1] if x.dim() == 4 else 1 for x in (B, C))


@dataclass(frozen=True)
class Forward:
    """A forward pass of which all but the addresses is decided: its launch, and memory for out, the last state and the kept states."""

    scan: Launch
    out: memory.Allocate
    last: memory.Allocate
    kept: memory.Allocate


def forward_launch(
    given: Given, softplus: bool, return_last_state: bool, every: int, plan: RowsPlan, beyond: Beyond = (False, False)
) -> Forward:
    """given: as_rows. Addresses: of u, delta, z, B, C, A, D, delta_bias, out, last state, kept states, marks, initial state."""
    u, delta, A, B, C, _, z, _ = given
    (batch, channels, length), states = u.shape, A.shape[1]
    size = u.element_size()
    of_tiles = bool(every) and plan.along == 1 and every % plan.tile == 0
    if beyond[1]:  # marks of documents take registers
        plan = replace(plan, blocks=max(plan.blocks - 1, 1))
    options = _options(*given, softplus, beyond) | plan.defines()
    options |= {"ALIGN": _alignment(u, delta, z), "ALIGN_OUT": divides(length * size), "HAS_LAST": int(return_last_state)}
    options |= {"STATES_OF_TILES": int(of_tiles), "STATES_OF_LANES": int(bool(every) and not of_tiles)}
    groups = _groups(B, C)
    group = channels // groups
    of_group = -(-group // plan.width)
    moving, constant = _matrix_strides(B, C)
    steps = -(-length // every) if every else 0
    numbers = [
        *_strides(u, 0, 1), *_strides(delta, 0, 1), *_strides(z, 0, 1), channels * length * size, length * size, *moving,
        *A.stride(), *constant, length, channels, group, groups * of_group, of_group, steps, max(every, 1),
    ]  # fmt: skip
    kernel = nvrtc.kernel("rows_forward.cu", "rows_forward", options, u.device)
    scan = Launch(kernel, groups * of_group * batch, plan.threads, plan.forward_shared(Sizes.of(u, B, C, states)), numbers)
    wide, device = torch.float32, u.device
    last = memory.contiguous((batch, channels, states), wide, device) if return_last_state else memory.nothing
    kept = memory.contiguous((batch, steps, channels, states), wide, device) if every else memory.nothing
    return Forward(scan, memory.contiguous((batch, channels, length), u.dtype, device), last, kept)


def scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
    return_last_state: bool,
    every: int,
    plan: RowsPlan,
    initial: Tensor | None = None,
    marks: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """out (batch, d_inner, length); last state (batch, d_inner, d_state) float32 or None; for every > 0 the states before every such
    step, a multiple of ITEMS, (batch, steps, d_inner, d_state) float32."""
    given = as_rows(u, delta, A, B, C, D, z, delta_bias)
    beyond = initial is not None, marks is not None
    return run_forward(forward_launch(given, softplus, return_last_state, every, plan, beyond), given, initial, marks)


def run_forward(
    launches: Forward, given: Given, initial: Tensor | None = None, marks: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """initial: (batch, d_inner, d_state) float32, contiguous. marks: (batch, length) int32, contiguous; see selective_scan_documents."""
    u, delta, A, B, C, D, z, bias = given
    out, last, kept = launches.out(), launches.last(), launches.kept()
    launches.scan(
        u.data_ptr(), delta.data_ptr(), _pointer(z), B.data_ptr(), C.data_ptr(), A.data_ptr(), _pointer(D), _pointer(bias), out.data_ptr(),
        _pointer(last), _pointer(kept), _pointer(marks), _pointer(initial),
    )  # fmt: skip
    return out, last, kept


@dataclass(frozen=True)
class Backward:
    """The launches of a backward pass. gradients: memory for those of u, delta, z, A, B, C, D, delta_bias. partial: for what the blocks
    leave for the sums; places: bytes from its start to what belongs to A, B, C, D, delta_bias."""

    scan: Launch
    sums: Launch
    gradients: tuple[memory.Allocate, ...]
    partial: memory.Allocate
    places: tuple[int, ...]


def backward_launch(
    given: Given, dout: Tensor, softplus: bool, plan: RowsPlan, shape_B: torch.Size, shape_C: torch.Size, beyond: Beyond = (False, False)
) -> Backward:
    """given: as_rows, and dout. Addresses of the scan: of u, delta, z, dout, B, C, A, D, delta_bias, kept states, du, ddelta, dz, then of
    what the blocks leave for A, B, C, D, delta_bias, marks, gradient of the initial state; of the sums: what is left for B, C, A, D,
    delta_bias, then those gradients."""
    u, delta, A, B, C, D, z, bias = given
    (batch, channels, length), states = u.shape, A.shape[1]
    groups = _groups(B, C)
    group = channels // groups
    of_group = -(-group // plan.width)
    options = _options(*given, softplus, beyond)
    types = {name: options[name] for name in ("TB", "TC", "TA", "TD", "TBIAS")}
    sizes = [x.element_size() for x in (u, delta, u if z is None else z)]
    options |= plan.defines() | {"ALIGN": _alignment(u, delta, z, dout), "ALIGN_OUT": min(divides(length * size) for size in sizes)}
    options |= {"ROUND": plan.together(states), "PRIVATE": int(plan.private(states))}
    tokens = groups * states * length
    # what the blocks leave: as often as (counted in `parts`) the values of each gradient
    counts = [batch * tokens if x.dim() == 4 else channels * states for x in (B, C)]
    counts += [channels * states, channels if D is not None else 0, channels if bias is not None else 0]
    parts = [of_group if x.dim() == 4 else batch for x in (B, C)] + [batch] * 3
    floats = [-(-count * part // 4) * 4 for count, part in zip(counts, parts)]
    at_B, at_C, at_A, at_D, at_bias, end = (4 * sum(floats[:i]) for i in range(6))
    moving, constant = _matrix_strides(B, C)
    made = [number for size in sizes for number in (channels * length * size, length * size)]
    kernel = nvrtc.kernel("rows_backward.cu", "rows_backward", options, u.device)
    scan = Launch(kernel, groups * of_group * batch, plan.threads, plan.backward_shared(Sizes.of(u, B, C, states)), [
        *_strides(u, 0, 1), *_strides(delta, 0, 1), *_strides(z, 0, 1), *_strides(dout, 0, 1), *moving, *A.stride(), *constant, *made,
        length, channels, group, groups * of_group, of_group, batch, groups,
    ])  # fmt: skip
    cuts = [-(-count // 256) for count in counts]
    starts = [sum(cuts[:i]) for i in range(6)]
    numbers = [*counts, parts[0], parts[1], batch, *starts[1:5]]
    sums = Launch(nvrtc.kernel("rows_sums.cu", "rows_sums", types, u.device), starts[5], 256, 0, numbers)
    shaped = (u, u.shape), (delta, u.shape), (z, u.shape), (A, A.shape), (B, shape_B), (C, shape_C), (D, (channels,)), (bias, (channels,))
    gradients = tuple(memory.nothing if x is None else memory.contiguous(shape, x.dtype, u.device) for x, shape in shaped)
    return Backward(scan, sums, gradients, memory.contiguous((end // 4,), torch.float32, u.device), (at_A, at_B, at_C, at_D, at_bias))


_compiled: set[tuple[object, ...]] = set()


def compile_backward(given: Given, softplus: bool, plan: RowsPlan, beyond: Beyond = (False, False)) -> None:
    """Before forward, where a kernel that is refused leaves the whole call to another backend. given: as_rows. Raises NotCompiled."""
    u, delta, A, B, C, _, z, _ = given
    types = [None if x is None else x.dtype for x in given]
    borders = _alignment(u, delta, z), divides(u.shape[2] * u.element_size())
    key = u.device, A.shape[1], B.dim(), C.dim(), softplus, plan, beyond, *borders, *types
    if key not in _compiled:
        backward_launch(given, torch.empty(u.shape, dtype=u.dtype, device="meta"), softplus, plan, B.shape, C.shape, beyond)
        _compiled.add(key)


def scan_backward(
    dout: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
    kept: Tensor,
    plan: RowsPlan,
    marks: Tensor | None = None,
    dinitial: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias, each in dtype and shape of its tensor. kept: states before every tile. dinitial:
    float32 memory for that of the initial state."""
    given, dout = as_rows(u, delta, A, B, C, D, z, delta_bias), rows(dout)
    beyond = dinitial is not None, marks is not None
    launches = backward_launch(given, dout, softplus, plan, B.shape, C.shape, beyond)
    return run_backward(launches, dout, given, kept, marks, dinitial)


def run_backward(
    launches: Backward, dout: Tensor, given: Given, kept: Tensor, marks: Tensor | None = None, dinitial: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    u, delta, A, B, C, D, z, bias = given
    du, ddelta, dz, grad_A, grad_B, grad_C, grad_D, grad_bias = [allocate() for allocate in launches.gradients]
    partial = launches.partial()
    start = partial.data_ptr()
    of_A, of_B, of_C, of_D, of_bias = [start + place for place in launches.places]
    launches.scan(
        u.data_ptr(), delta.data_ptr(), _pointer(z), dout.data_ptr(), B.data_ptr(), C.data_ptr(), A.data_ptr(), _pointer(D), _pointer(bias),
        kept.data_ptr(), du.data_ptr(), ddelta.data_ptr(), _pointer(dz), of_A, of_B, of_C, of_D, of_bias,
        _pointer(marks), _pointer(dinitial),
    )  # fmt: skip
    launches.sums(
        of_B, of_C, of_A, of_D, of_bias, grad_B.data_ptr(), grad_C.data_ptr(), grad_A.data_ptr(), _pointer(grad_D), _pointer(grad_bias)
    )
    return du, ddelta, grad_A, grad_B, grad_C, grad_D, dz, grad_bias

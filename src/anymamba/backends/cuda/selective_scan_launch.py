"""The Mamba-1 selective scan on NVIDIA cards, in CUDA C++: layouts, memory and launches of the kernels in kernels/.

Triton has no way to say which lane holds which states, and its scan stayed at 0.6 to 1.5 times the official kernel's speed; these
kernels spread the 16 states of a channel over lanes as the size of the problem asks, and do the element-wise work once a value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anymamba.backends.accelerator import processors, shared_memory
from anymamba.backends.cuda import memory, nvrtc
from anymamba.backends.cuda.prepared_launch import Launch

WARPS_OF_A_SCHEDULER = 7
"""That hide the latency of the forward scan's chain of steps, where chunks are cut at all."""

HELPERS = (3, 12)
"""Of a block of the split kernel with three walkers: warps that help, warps launched, of which some only hold places. Else 4 help."""

TYPES = {torch.float32: "float", torch.bfloat16: "bf16", torch.float16: "f16"}


@dataclass(frozen=True)
class ChannelsPlan:
    """states, channels: what a lane holds of each. tile: time steps whose inputs are staged together; backward: whose decays stay in
    registers. unroll: exchanges of the inner loop that are laid out in a row. warps: of a block. window: steps between kept states.
    chunks: warps that share the length. blocks: of a multiprocessor that the compiler makes room for. polynomial: states of a lane
    whose decays forward computes by a polynomial, not on the unit for exponentials. split: forward by kernels/scan_split.cu, whose
    warps that help come on top; of a lane's channels it knows one, and of chunks."""

    states: int
    channels: int
    tile: int
    warps: int
    unroll: int = 4
    window: int = 16
    chunks: int = 1
    blocks: int = 1
    polynomial: int = 0
    split: bool = False

    def width(self, d_state: int) -> int:
        """Channels of a warp."""
        return 32 * self.states // d_state * self.channels

    @property
    def name(self) -> str:
        """All that is compiled into a kernel."""
        words = f"{self.states} states x {self.channels}, tile {self.tile}, {self.warps} warps ({self.blocks} blocks, unroll {self.unroll})"
        marks = ("split", self.split), ("chunks", self.chunks > 1), (f"{self.polynomial} by polynomial", self.polynomial)
        return " ".join([words, *(word for word, holds in marks if holds)])

    def defines(self) -> dict[str, object]:
        return {
            "NS": self.states, "NC": self.channels, "T": self.tile, "WARPS": self.warps, "UNROLL": self.unroll,
            "K": self.window, "MIN_BLOCKS": self.blocks, "POLYNOMIAL": self.polynomial,
        }  # fmt: skip


def training_plan(plan: ChannelsPlan, window: int, wide: bool) -> ChannelsPlan:
    """The forward plan where the states before every window-th step are written too. wide: B and C are in float32."""
    if plan.split:
        # they need registers for their addresses; beside B and C in float32 fewer groups are laid out in a row
        return replace(plan, blocks=min(plan.blocks, 2), unroll=min(plan.unroll, 4) if wide else plan.unroll)
    return replace(plan, tile=min(plan.tile, window))  # they are written between tiles


def of_one_group(plan: ChannelsPlan, d_state: int, channels: int, groups: int) -> ChannelsPlan:
    """The forward plan such that a block's channels are of one group."""
    if plan.split and groups > 1 and channels // groups % (plan.warps * plan.width(d_state)):
        return replace(plan, warps=4)
    return plan


def gated_plan(plan: ChannelsPlan, dtype: torch.dtype) -> ChannelsPlan:
    """The backward plan with z: in float32 its rows wait in registers for the next window, and 8 steps' decays would spill."""
    return replace(plan, tile=min(plan.tile, 4)) if dtype == torch.float32 else plan


def forward_plan(batch: int, channels: int, length: int, device: torch.device, packed: bool = True) -> ChannelsPlan:
    """The split kernel, which passes over the length once, where its blocks fill half of the device or more. Else chunks of the length
    give every scheduler (four a multiprocessor) warps enough, of at least 96 steps: they cost a second pass.

    packed: B and C are of 16 bits. In float32 they are twice the split kernel's traffic with shared memory, and lanes that hold eight
    states are faster where there are many channels.
    """
    schedulers = 4 * processors(device)
    warps = batch * -(-channels // 16)
    if warps < schedulers / 8:
        chunks = max(min(-(-WARPS_OF_A_SCHEDULER * schedulers // max(warps, 1)), length // 96), 1)
        if length <= 4096:  # a chunk's share of the second pass grows as chunks get shorter
            chunks = max(min(chunks, length // 128), 1)
        return ChannelsPlan(8, 1, 16, 1, unroll=8, chunks=chunks, polynomial=int(length <= 4096))
    if batch * -(-channels // 12) <= schedulers / 4:
        return ChannelsPlan(2, 1, 64, 3, unroll=8, split=True)  # more multiprocessors take part than with blocks of 16 channels
    if warps <= 3 * schedulers / 4:
        # three fit into the shared memory of sm_80, sm_90 and sm_100; in float32 their registers would spill
        most = 3 if packed and shared_memory(device) >= 160 * 1024 else 2
        return ChannelsPlan(2, 1, 64, 4, unroll=8, blocks=1 if warps <= schedulers / 4 else most, split=True)
    if not packed and warps > 2 * schedulers:
        # so few warps wait for exponentials more than for anything else
        return ChannelsPlan(8, 1, 16, 1, unroll=8, polynomial=int(warps < 3 * schedulers))
    return ChannelsPlan(4, 1, 32, 4, unroll=8, blocks=2, split=True)


def backward_plan(batch: int, channels: int, length: int, device: torch.device) -> ChannelsPlan:
    """Chunks of the length where the warps do not fill the device twice over: they cost a second pass. Where there are many, two
    chunks even out the end."""
    schedulers = 4 * processors(device)
    warps = batch * -(-channels // 16)
    wanted = 2 if length <= 2048 else 7
    chunks = min(max(wanted * schedulers // warps, 1), max(length // 64, 1))
    if warps >= 1.2 * schedulers and length >= 1024:
        chunks = 4  # blocks of four warps do not share out evenly otherwise
    if warps >= 1.5 * schedulers:
        chunks = 2 if warps >= 4 * schedulers and length >= 512 else 1
    return ChannelsPlan(4, 2, 8, 4, window=16, chunks=chunks)


def takes(d_state: int, channels: int, groups: int) -> bool:
    """Do these kernels take a scan of such sizes."""
    return d_state == 16 and channels % 8 == 0 and channels < 2**31 and (groups == 1 or channels // groups % 128 == 0)


def suits(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, z: Tensor | None) -> bool:
    """And lie channels side by side in memory, at 16-byte borders; B and C change with time."""
    groups = B.shape[1] if B.dim() == 4 else 1
    fits = B.dim() > 2 and C.dim() > 2 and takes(A.shape[1], u.shape[1], groups)
    return fits and all(x is None or aligned(x) for x in (u, delta, z))


def aligned(x: Tensor) -> bool:
    size = x.element_size()
    return x.stride(1) == 1 and x.data_ptr() % 16 == 0 and x.stride(0) * size % 16 == 0 and x.stride(2) * size % 16 == 0


def rows(x: Tensor) -> Tensor:
    """(batch, d_inner, length) as the kernels read it."""
    return x if aligned(x) else x.transpose(1, 2).contiguous().transpose(1, 2)


def tokens(x: Tensor) -> Tensor:
    """B or C as (batch, ngroups, length, d_state), rows at 16-byte borders."""
    x = (x.unsqueeze(1) if x.dim() == 3 else x).transpose(2, 3)
    size = x.element_size()
    fits = x.stride(3) == 1 and x.data_ptr() % 16 == 0 and all(s * size % 16 == 0 for s in x.stride()[:3])
    return x if fits else x.contiguous()


def cut(length: int, chunks: int, multiple: int) -> tuple[int, int]:
    """(steps of a chunk, a multiple of that many; number of chunks)."""
    chunk = multiple * max(math.ceil(length / multiple / chunks), 1)
    return chunk, math.ceil(length / chunk)


def _pointer(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _strides(x: Tensor | None, *dims: int) -> list[int]:
    """In bytes."""
    return [0 if x is None else x.stride(dim) * x.element_size() for dim in dims]


def _options(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, bias: Tensor | None, softplus: bool) -> dict[str, object]:  # noqa: E501
    def name(x: Tensor | None) -> str:
        return "float" if x is None else TYPES[x.dtype]

    return {
        "N": A.shape[1], "TU": name(u), "TDT": name(delta), "TZ": name(u if z is None else z), "TB": name(B), "TC": name(C),
        "TA": name(A), "TD": name(D), "TBIAS": name(bias), "SOFTPLUS": int(softplus), "HAS_D": int(D is not None),
        "HAS_Z": int(z is not None), "HAS_BIAS": int(bias is not None),
    }  # fmt: skip


class Forward:
    """A forward pass of which all but the addresses is decided; for tensors like those it is made from. every > 0: steps between the
    states that are kept for backward."""

    def __init__(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None,
        softplus: bool, return_last_state: bool, every: int, plan: ChannelsPlan,
    ) -> None:  # fmt: skip
        """B, C: as tokens gives them."""
        batch, channels, length = u.shape
        states, groups, device = A.shape[1], B.shape[1], u.device
        plan = of_one_group(plan, states, channels, groups)
        if every:
            plan = training_plan(plan, every, B.element_size() == 4)
        chunk, chunks = cut(length, plan.chunks, max(every, plan.tile))
        steps = -(-length // every) if every else 0
        dense = channels * length, 1, channels
        self.out = memory.allocator((batch, channels, length), dense, u.dtype, device)
        nothing, wide = memory.nothing, torch.float32
        self.last = memory.contiguous((batch, channels, states), wide, device) if return_last_state else nothing
        self.checkpoint = memory.contiguous((batch, steps, states, channels), wide, device) if every else nothing
        # what chunks add to the state, and then their sums of step sizes
        self.added = memory.contiguous((batch * chunks * (states + 1) * channels,), wide, device) if chunks > 1 else nothing
        self.of_steps = 4 * batch * chunks * states * channels if chunks > 1 else 0
        options = _options(u, delta, A, B, C, D, z, delta_bias, softplus)
        options |= {"HAS_LAST": int(return_last_state), "HAS_CHECKPOINT": int(every > 0)} | plan.defines()
        width = plan.width(states)
        blocks = -(-channels // (width * plan.warps))
        numbers = [
            *_strides(u, 0, 2), *_strides(delta, 0, 2), *_strides(z, 0, 2),
            channels * length * u.element_size(), channels * u.element_size(), *_strides(B, 0, 1, 2), *_strides(C, 0, 1, 2),
            A.stride(0), A.stride(1), length, channels, channels // groups, blocks, steps, max(every, 1), chunk, chunks,
        ]  # fmt: skip
        if plan.split:
            wide_block = plan.warps * width
            helpers, launched = HELPERS if plan.warps == 3 else (4, plan.warps + 4)
            piece = 4 if plan.warps == 3 else min(wide_block // 4, 8)
            packed = B.element_size() == C.element_size() == 2
            stages = 2 * 4 * (3 * wide_block + (1 if packed else 2) * states) * (plan.tile + 4)
            kept = 4 * piece * (u.element_size() + (u if z is None else z).element_size())
            kept *= 32 * helpers * -(-plan.tile * wide_block // (piece * 32 * helpers))
            kernel = nvrtc.kernel("scan_split.cu", "scan_split", options | {"EVERY": max(every, 1)}, device)
            self.launches = [Launch(kernel, blocks * batch, 32 * launched, stages + kept, numbers)]
            return
        floats = 3 * plan.tile * width + plan.tile * 2 * states + 2 * width
        shared = 4 * plan.warps * -(-floats // 4) * 4
        self.launches = []
        for carry in (True, False) if chunks > 1 else (False,):
            kernel = nvrtc.kernel("scan_forward.cu", "scan_forward", options | {"CARRY": int(carry), "CHUNKED": int(chunks > 1)}, device)
            self.launches.append(Launch(kernel, blocks * batch * (chunks - carry), 32 * plan.warps, shared, numbers))

    def __call__(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        out, last, checkpoint, added = self.out(), self.last(), self.checkpoint(), self.added()
        start = _pointer(added)
        for launch in self.launches:
            launch(
                u.data_ptr(), delta.data_ptr(), _pointer(z), B.data_ptr(), C.data_ptr(), A.data_ptr(), _pointer(D), _pointer(delta_bias),
                out.data_ptr(), _pointer(last), _pointer(checkpoint), start, start + self.of_steps,
            )  # fmt: skip
        return out, last, checkpoint


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
    plan: ChannelsPlan,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """out (batch, d_inner, length), channel stride 1; last state (batch, d_inner, d_state) float32 or None; for every > 0 the states
    before every such step (batch, steps, d_state, d_inner) float32."""
    tensors = u, delta, A, tokens(B), tokens(C), D, z, delta_bias
    return Forward(*tensors, softplus, return_last_state, every, plan)(*tensors)

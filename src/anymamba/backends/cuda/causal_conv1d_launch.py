"""The causal convolution on NVIDIA cards in CUDA C++: plans, memory and launches of kernels/conv_*.cu. One family of them is for steps
of a channel that lie side by side, the other for channels that do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anymamba.backends.accelerator import processors
from anymamba.backends.cuda import memory, nvrtc
from anymamba.backends.cuda.prepared_launch import Launch

TYPES = {torch.float32: "float", torch.bfloat16: "bf16", torch.float16: "f16"}
LARGEST_WIDTH = 8
"""The taps are unrolled and live in registers."""
MOST_BLOCKS = 2**31 - 1


def in_rows(x: Tensor) -> bool:
    """Does time, and not the channels, lie side by side in memory."""
    return x.stride(2) == 1 and x.stride(1) != 1


def power_of_2(size: int) -> int:
    """The smallest power of 2 that is at least size."""
    return 1 << (size - 1).bit_length()


def common(*numbers: int) -> int:
    """The largest power of 2 up to 16 that divides all of them."""
    bits = 16
    for number in numbers:
        bits |= number
    return bits & -bits


def options_of(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> dict[str, object]:
    return {
        "TX": TYPES[x.dtype], "TW": TYPES[weight.dtype], "TBIAS": "float" if bias is None else TYPES[bias.dtype],
        "TAPS": weight.shape[1], "SILU": int(silu), "HAS_BIAS": int(bias is not None),
    }  # fmt: skip


def strides(x: Tensor, *dims: int) -> list[int]:
    """In bytes; 0 of a dimension of one place, whose stride says nothing."""
    return [x.stride(dim) * x.element_size() if x.shape[dim] > 1 else 0 for dim in dims]


@dataclass(frozen=True)
class Sizes:
    """What plans look at. size: bytes of a value; values: neighbouring channels that a lane can read together."""

    batch: int
    channels: int
    length: int
    width: int
    size: int
    values: int
    device: torch.device

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, *others: Tensor) -> Sizes:
        size, (batch, channels, length) = x.element_size(), x.shape
        places = [channels * size]
        for tensor in (x, *others):
            places += [tensor.data_ptr(), *strides(tensor, 0, 2)]
        return cls(batch, channels, length, weight.shape[1], size, min(common(*places) // size, 4), x.device)

    @property
    def items(self) -> int:
        """Neighbouring steps of a lane, where they lie side by side."""
        return 8 if self.size == 2 or self.width > 5 else 4

    @property
    def lanes(self) -> int:
        """Of a warp along a row: no more than it has use for, and as many as the widest taps reach."""
        return min(max(power_of_2(-(-self.length // self.items)), 8), 32)


@dataclass(frozen=True)
class ConvRowsPlan:
    """lanes: of a warp along a row; the others have other rows. segments: that a lane has of a row; forward: with their loads in flight
    together. threads: of a block; blocks: of a multiprocessor that the compiler makes room for. parts: blocks that share a channel
    (backward)."""

    lanes: int
    segments: int
    threads: int
    blocks: int = 1
    parts: int = 1


def rows_forward_plan(sizes: Sizes) -> ConvRowsPlan:
    """Two segments where a row has so many."""
    return ConvRowsPlan(sizes.lanes, 2 if sizes.length > sizes.lanes * sizes.items else 1, 128)


def rows_backward_plan(sizes: Sizes) -> ConvRowsPlan:
    """Whole rows where there are enough to fill the device, for a cut costs what its taps reach. Blocks of up to eight warps."""
    lanes = sizes.lanes
    segments = -(-sizes.length // (lanes * sizes.items))
    wanted = 24 * processors(sizes.device)  # warps
    cuts = min(power_of_2(max(wanted * 32 // (sizes.batch * sizes.channels * lanes), 1)), segments)
    of_stretch = -(-segments // cuts)
    walkers = sizes.batch * -(-segments // of_stretch)
    threads = min(max(power_of_2(walkers) * lanes, 32), 256)
    parts = min(max(wanted * 32 // (sizes.channels * threads), 1), -(-walkers * lanes // threads))
    return ConvRowsPlan(lanes, of_stretch, threads, (1024 if sizes.width <= 5 else 768) // threads, parts)


def rows_forward(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Launch:
    """Addresses: of x, weight, bias, out (batch, channels, length), contiguous."""
    batch, channels, length = x.shape
    sizes, size = Sizes.of(x, weight), x.element_size()
    plan = rows_forward_plan(sizes)
    of_x = strides(x, 0, 1)
    defines = options_of(x, weight, bias, silu) | {
        "LT": plan.lanes, "SEGMENTS": plan.segments, "BLOCK": plan.threads, "ALIGN": common(x.data_ptr(), *of_x),
        "ALIGN_OUT": common(length * size),
    }  # fmt: skip
    stretches = -(-length // (plan.lanes * sizes.items * plan.segments))
    grid = -(-batch * channels * stretches * plan.lanes // plan.threads)
    numbers = [*of_x, channels * length * size, length * size, *weight.stride(), length, channels, batch * channels, stretches]
    return Launch(nvrtc.kernel("conv_rows_forward.cu", "conv_rows_forward", defines, x.device), grid, plan.threads, 0, numbers)


@dataclass(frozen=True)
class ConvChannelsPlan:
    """values: neighbouring channels of a lane. steps: whose loads are in flight together. stretch: steps of a lane. threads: of a block,
    forward all across the channels, backward a warp of them and as many stretches as warps. blocks: of a multiprocessor that the compiler
    makes room for."""

    values: int
    steps: int
    stretch: int
    threads: int
    blocks: int


def _stretch(length: int, beside: int, at_once: int, least: int) -> int:
    """Such that the stretches fill the device a whole number of times, and no shorter than least if that fills it once."""
    goes = -(-beside * -(-length // least) // at_once)
    return max(-(-length // max(goes * at_once // beside, 1)), least // 2)


def channels_forward_plan(sizes: Sizes) -> ConvChannelsPlan:
    values = sizes.values
    threads = min(max(power_of_2(-(-sizes.channels // values)), 32), 128)
    across = -(-sizes.channels // (threads * values))
    at_once = processors(sizes.device) * (640 if sizes.width <= 4 else 512) // threads  # about 100 and 128 registers a lane
    stretch = _stretch(sizes.length, sizes.batch * across, at_once, 32)
    return ConvChannelsPlan(values, 8, -(-stretch // 8) * 8, threads, 4)


def channels_backward_plan(sizes: Sizes) -> ConvChannelsPlan:
    values = min(sizes.values, 2) if sizes.size == 4 or sizes.width > 4 else sizes.values  # or registers would spill
    across = -(-sizes.channels // (32 * values))
    stretch = _stretch(sizes.length, sizes.batch * across, processors(sizes.device) * 16, 64)
    return ConvChannelsPlan(values, 4, -(-stretch // 4) * 4, 128, 4)


def channels_forward(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Launch:
    """Addresses: of x, weight, bias, out (batch, channels, length), channels side by side."""
    batch, channels, length = x.shape
    plan, size = channels_forward_plan(Sizes.of(x, weight)), x.element_size()
    defines = options_of(x, weight, bias, silu) | {
        "V": plan.values, "STEPS": plan.steps, "BLOCK": plan.threads, "MIN_BLOCKS": plan.blocks,
    }  # fmt: skip
    across, along = -(-channels // (plan.threads * plan.values)), -(-length // plan.stretch)
    numbers = [
        *strides(x, 0, 2), length * channels * size, channels * size, *weight.stride(), length, channels, plan.stretch, across, along,
    ]  # fmt: skip
    kernel = nvrtc.kernel("conv_channels_forward.cu", "conv_channels_forward", defines, x.device)
    return Launch(kernel, across * along * batch, plan.threads, 0, numbers)


class Backward:
    """The gradients of x, weight and bias for dout of one layout; x, dout, dx: (batch, channels, length), laid out alike."""

    def __init__(self, x: Tensor, dout: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> None:
        batch, channels, length = x.shape
        width, size, device = weight.shape[1], x.element_size(), x.device
        sizes = Sizes.of(x, weight, dout)
        defines = options_of(x, weight, bias, silu)
        if in_rows(x):
            plan = rows_backward_plan(sizes)
            parts, dense = plan.parts, (channels * length, length, 1)
            moving = [*strides(x, 0, 1), *strides(dout, 0, 1)]
            defines |= {
                "LT": plan.lanes, "BLOCK": plan.threads, "MIN_BLOCKS": plan.blocks,
                "ALIGN": common(x.data_ptr(), dout.data_ptr(), *moving), "ALIGN_OUT": common(length * size),
            }  # fmt: skip
            stretches = -(-length // (plan.lanes * sizes.items * plan.segments))
            kernel = nvrtc.kernel("conv_rows_backward.cu", "conv_rows_backward", defines, device)
            self.scan = Launch(kernel, channels * parts, plan.threads, 0, [
                *moving, channels * length * size, length * size, *weight.stride(), length, channels, batch,
                plan.segments, stretches, parts,
            ])  # fmt: skip
        else:
            of_channels = channels_backward_plan(sizes)
            warps = of_channels.threads // 32
            across, along = -(-channels // (32 * of_channels.values)), -(-length // (of_channels.stretch * warps))
            parts, dense = along * batch, (channels * length, 1, channels)
            defines |= {"V": of_channels.values, "STEPS": of_channels.steps, "WARPS": warps, "MIN_BLOCKS": of_channels.blocks}
            kernel = nvrtc.kernel("conv_channels_backward.cu", "conv_channels_backward", defines, device)
            self.scan = Launch(kernel, across * along * batch, of_channels.threads, 0, [
                *strides(x, 0, 2), *strides(dout, 0, 2), length * channels * size, channels * size, *weight.stride(), length, channels,
                of_channels.stretch, across, along,
            ])  # fmt: skip
        self.sums = None
        if not in_rows(x) or parts > 1:
            blocks = -(-channels * width // 32)
            types = {name: defines[name] for name in ("TW", "TBIAS", "TAPS")}
            grid = blocks + (-(-channels // 32) if bias is not None else 0)
            self.sums = Launch(nvrtc.kernel("conv_sums.cu", "conv_sums", types, device), grid, 256, 0, [channels, parts, blocks])
            self.partial = memory.contiguous((parts * channels * (width + 1),), torch.float32, device)
            self.of_bias = 4 * parts * channels * width
        self.dx = memory.allocator((batch, channels, length), dense, x.dtype, device)
        self.dweight = memory.contiguous((channels, width), weight.dtype, device)
        self.dbias = memory.nothing if bias is None else memory.contiguous((channels,), bias.dtype, device)

    def __call__(self, x: Tensor, dout: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        dx, dweight, dbias = self.dx(), self.dweight(), self.dbias()
        given = x.data_ptr(), dout.data_ptr(), weight.data_ptr(), 0 if bias is None else bias.data_ptr(), dx.data_ptr()
        to_bias = 0 if dbias is None else dbias.data_ptr()
        if self.sums is None:
            self.scan(*given, dweight.data_ptr(), to_bias)
        else:
            partial = self.partial()
            start = partial.data_ptr()
            self.scan(*given, start, start + self.of_bias)
            self.sums(start, start + self.of_bias, dweight.data_ptr(), to_bias)
        return dx, dweight, dbias

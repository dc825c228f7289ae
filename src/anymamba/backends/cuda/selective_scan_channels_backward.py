"""The backward pass of the scan along channels that lie side by side: memory and launches of kernels/scan_backward.cu and its company."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.backends.cuda import memory, nvrtc
from anymamba.backends.cuda import selective_scan_launch as forward
from anymamba.backends.cuda.prepared_launch import Launch
from anymamba.backends.cuda.selective_scan_launch import ChannelsPlan, aligned, cut, gated_plan, rows, tokens

Gradients = tuple["Tensor | None", ...]
"""Of u, delta, A, B, C, D, z, delta_bias, each in dtype and shape of its tensor."""


def backward_kernels(
    options: dict[str, object], plan: ChannelsPlan, chunked: bool, device: torch.device
) -> tuple[nvrtc.Kernel | None, nvrtc.Kernel, nvrtc.Kernel]:
    """Those that carry gradients over chunks where there are several, walk the steps, and add up."""
    types = {name: options[name] for name in ("TB", "TC", "TA", "TD", "TBIAS")}
    width = plan.width(int(options["N"]))  # type: ignore[call-overload]
    options = options | plan.defines()
    carry = nvrtc.kernel("scan_carry.cu", "scan_carry", {**options, "T": _carry_tile(width)}, device) if chunked else None
    kernel = nvrtc.kernel("scan_backward.cu", "scan_backward", options, device)
    return carry, kernel, nvrtc.kernel("scan_sums.cu", "scan_sums", types, device)


def _carry_tile(width: int) -> int:
    return 16 if width >= 16 else 32


_compiled: set[tuple[object, ...]] = set()


def compile_backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
    plan: ChannelsPlan,
) -> None:
    """Before forward, where a kernel that is refused leaves the whole call to another backend. Raises NotCompiled."""
    types = [None if x is None else x.dtype for x in (u, delta, A, B, C, D, z, delta_bias)]
    key = u.device, A.shape[1], softplus, plan, *types
    if key not in _compiled:
        options = forward._options(u, delta, A, B, C, D, z, delta_bias, softplus)
        backward_kernels(options, plan if z is None else gated_plan(plan, u.dtype), plan.chunks > 1, u.device)
        _compiled.add(key)


class Backward:
    """A backward pass of which all but the addresses is decided. dout: as ``rows`` gives it; B, C: as ``tokens`` does. shape_B, shape_C:
    of their gradients. dz_strides: of memory for z's gradient that is not made here."""

    def __init__(
        self, dout: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
        delta_bias: Tensor | None, softplus: bool, plan: ChannelsPlan, shape_B: torch.Size, shape_C: torch.Size,
        dz_strides: tuple[int, ...] | None = None,
    ) -> None:  # fmt: skip
        batch, channels, length = u.shape
        states, device = A.shape[1], u.device
        groups = B.shape[1]
        group = channels // groups
        if z is not None:
            plan = gated_plan(plan, u.dtype)
        window, width = plan.window, plan.width(states)
        chunk, chunks = cut(length, plan.chunks, window)
        blocks = groups * -(-group // (width * plan.warps))
        shape, dense = (batch, channels, length), (channels * length, 1, channels)
        self.du, self.ddelta = (memory.allocator(shape, dense, x.dtype, device) for x in (u, delta))
        self.dz = memory.nothing if z is None or dz_strides is not None else memory.allocator(shape, dense, z.dtype, device)
        of_tokens = groups * length * states, length * states, 1, states
        self.grad_B, self.grad_C = (
            memory.allocator(shape, of_tokens if len(shape) == 4 else (of_tokens[0], *of_tokens[2:]), x.dtype, device)
            for shape, x in ((shape_B, B), (shape_C, C))
        )
        self.grad_A = memory.contiguous(A.shape, A.dtype, device)
        self.grad_D, self.grad_bias = (
            memory.nothing if x is None else memory.contiguous(x.shape, x.dtype, device) for x in (D, delta_bias)
        )
        # one allocation for what the blocks leave; a place of each part starts at 16 bytes, for channels are a multiple of 8
        lots, values = batch * chunks, batch * groups * length * states
        sizes = [lots * states * channels, lots * channels, lots * channels, blocks // groups * values, blocks // groups * values]
        sizes += [lots * states * channels, lots * channels] if chunks > 1 else [0, 0]
        self.partial = memory.contiguous((sum(sizes),), torch.float32, device)
        self.places = [4 * sum(sizes[:i]) for i in range(len(sizes))]  # of dA, dD, dbias, dB, dC, added states, sums of step sizes
        self.chunked = chunks > 1
        carry, kernel, sums = backward_kernels(forward._options(u, delta, A, B, C, D, z, delta_bias, softplus), plan, chunks > 1, device)

        def strides(x: Tensor | None) -> list[int]:
            return forward._strides(x, 0, 2)

        def made(x: Tensor | None, of: tuple[int, ...] = dense) -> list[int]:
            return [0, 0] if x is None else [of[0] * x.element_size(), of[2] * x.element_size()]

        sized = [length, channels, group, blocks]
        self.carry = None
        if carry is not None:
            tile = _carry_tile(width)
            floats = 2 * tile * width + tile * 2 * states + -(-width // 4) * 4
            self.carry = Launch(carry, blocks * (chunks - 1) * batch, 32 * plan.warps, 4 * plan.warps * floats, [
                *strides(delta), *strides(z), *strides(dout), *forward._strides(C, 0, 1, 2), A.stride(0), A.stride(1),
                *sized, chunk, chunks,
            ])  # fmt: skip
        piece = min(width, 8)
        kept = piece * (2 * u.element_size() + delta.element_size() + (u if z is None else z).element_size()) // 4
        floats = 6 * window * width + window * 2 * states + 64 * piece
        floats += (window // plan.tile - 1) * plan.channels * plan.states * 32 + kept * 32 + -(-2 * width // 4) * 4
        shared = 4 * plan.warps * (floats + 2 * window * 2 * states)
        self.scan = Launch(kernel, blocks * chunks * batch, 32 * plan.warps, shared, [
            *strides(u), *strides(delta), *strides(z), *strides(dout), *made(u), *made(delta), *made(z, dz_strides or dense),
            *forward._strides(B, 0, 1, 2), *forward._strides(C, 0, 1, 2), A.stride(0), A.stride(1),
            *sized, -(-length // window), chunk, chunks, batch, groups,
        ])  # fmt: skip
        lengths = (values, values, states * channels, channels * (D is not None), channels * (delta_bias is not None))
        cuts = [-(-size // (4 * 256)) for size in lengths]
        starts = [sum(cuts[:i]) for i in range(6)]
        self.sums = Launch(sums, starts[5], 256, 0, [values, blocks // groups, channels, states, lots, *starts[1:5]])

    def __call__(
        self, dout: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
        delta_bias: Tensor | None, checkpoint: Tensor, dz: Tensor | None = None,
    ) -> Gradients:  # fmt: skip
        du, ddelta, partial = self.du(), self.ddelta(), self.partial()
        dz = self.dz() if dz is None else dz
        grad_A, grad_B, grad_C, grad_D, grad_bias = self.grad_A(), self.grad_B(), self.grad_C(), self.grad_D(), self.grad_bias()
        pointer, start = forward._pointer, partial.data_ptr()
        dA, dD, dbias, dB, dC, added, sum_dt = [start + place for place in self.places]
        if not self.chunked:
            added = sum_dt = 0
        at_delta, at_z, at_dout, at_C = delta.data_ptr(), pointer(z), dout.data_ptr(), C.data_ptr()
        at_A, at_bias = A.data_ptr(), pointer(delta_bias)
        if self.carry is not None:
            self.carry(at_delta, at_z, at_dout, at_C, at_A, at_bias, added, sum_dt)
        self.scan(
            u.data_ptr(), at_delta, at_z, at_dout, B.data_ptr(), at_C, at_A, pointer(D), at_bias, checkpoint.data_ptr(), added, sum_dt,
            du.data_ptr(), ddelta.data_ptr(), pointer(dz), dA, dD, dbias, dB, dC,
        )  # fmt: skip
        self.sums(
            dB, dC, dA, dD, dbias, grad_B.data_ptr(), grad_C.data_ptr(), grad_A.data_ptr(), pointer(grad_D), pointer(grad_bias)
        )
        return du, ddelta, grad_A, grad_B, grad_C, grad_D, dz, grad_bias


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
    checkpoint: Tensor,
    plan: ChannelsPlan,
    dz: Tensor | None = None,
) -> Gradients:
    """Gradients. checkpoint: of every plan.window steps. dz: memory for z's, which is used where its rows lie at 16-byte borders."""
    given = rows(dout), u, delta, A, tokens(B), tokens(C), D, z, delta_bias
    dz = None if dz is None or not aligned(dz) else dz
    back = Backward(*given, softplus, plan, B.shape, C.shape, None if dz is None else dz.stride())
    return back(*given, checkpoint, dz)

"""Mamba-1's selective scan, chunk by chunk: state and gradients exist for one chunk of time steps only."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.backends.torch import supports as supports
from anymamba.backends.torch.precision import full_precision, wide_dtype
from anymamba.backends.torch.recurrence import linear_recurrence_


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """See anymamba.ops.selective_scan_fn. u, delta, z: (batch, d_inner, length), any strides."""
    with full_precision(u.device):
        wide = wide_dtype(u, delta, A, B, C, D, z, delta_bias)
        dt = delta.to(wide)
        if delta_bias is not None:
            dt = dt + delta_bias.to(wide)[:, None]
        if delta_softplus:
            dt = F.softplus(dt)
        rates = A.to(wide.to_complex() if A.is_complex() else wide)
        maps = [_state_map(X, A.is_complex(), rates.dtype) for X in (B, C)]
        groups = math.lcm(*(X.shape[1] for X in maps if X.dim() == 4))
        maps = [X.repeat_interleave(groups // X.shape[1], dim=1) if X.dim() == 4 else X for X in maps]
        y, last_state = _Scan.apply(u, dt, rates, *maps, groups)
        if D is not None:
            y = torch.addcmul(y, D.to(wide)[:, None], u.to(wide))
        if z is not None:
            y = y * F.silu(z.to(wide))
        y = y.to(u.dtype)
    return (y, last_state) if return_last_state else y


def _state_map(X: Tensor, complex_A: bool, dtype: torch.dtype) -> Tensor:
    """B or C as (d_inner, d_state) when constant, else as (batch, groups, d_state, length); complex when A is.
    Real pairs (real, imaginary) that follow one another in the last dimension stand for a complex number."""
    if X.dim() == 2:
        return X.to(dtype)
    X = X.unsqueeze(1) if X.dim() == 3 else X
    if complex_A and not X.is_complex():
        return torch.view_as_complex(X.to(dtype.to_real()).unflatten(-1, (-1, 2)).contiguous())
    return X


def _chunk_length(u: Tensor, d_state: int) -> int:
    """Time steps whose states fit a CPU's cache, or fill an accelerator without filling its memory."""
    target = 2**20 if u.device.type == "cpu" else 2**25
    return min(max(target // max(u.shape[0] * u.shape[1] * d_state, 1), 16), 256)


def _segment_length(device: torch.device) -> int:
    # a CPU pays nothing for a launch; elsewhere 16 steps of 16 segments make a chunk of 256
    return 0 if device.type == "cpu" else 16


class _Layout:
    """The operands with time first and channels last: (length, batch, groups, d_state, channels of a group).

    Channels last because d_state is small and every operand but B and C varies along channels; views wherever the strides
    allow, so that only chunks are ever copied."""

    def __init__(self, u: Tensor, dt: Tensor, rates: Tensor, B: Tensor, C: Tensor, groups: int) -> None:
        self.groups = groups
        self.u, self.dt = self.by_channel(u), self.by_channel(dt)
        self.rates = self.constant(rates).contiguous()
        self.B, self.C = self.state_map(B), self.state_map(C)
        self.constant_B, self.constant_C = B.dim() == 2, C.dim() == 2

    def by_channel(self, x: Tensor) -> Tensor:
        """(batch, d_inner, length) as (length, batch, groups, 1, channels)."""
        return x.permute(2, 0, 1).unflatten(2, (self.groups, -1)).unsqueeze(3)

    def constant(self, x: Tensor) -> Tensor:
        """(d_inner, d_state) as (groups, d_state, channels)."""
        return x.unflatten(0, (self.groups, -1)).transpose(1, 2)

    def state_map(self, x: Tensor) -> Tensor:
        """A constant as ``constant`` does; (batch, groups, d_state, length) as (length, batch, groups, d_state, 1)."""
        return self.constant(x).unsqueeze(0) if x.dim() == 2 else x.permute(3, 0, 1, 2).unsqueeze(4)


def _of_chunk(x: Tensor, chunk: slice, constant: bool, dtype: torch.dtype) -> Tensor:
    return x.contiguous() if constant else x[chunk].to(dtype).contiguous()


def _contract_states(weights: Tensor, states: Tensor, constant: bool) -> Tensor:
    """sum over d_state: (steps, batch, groups, 1, channels)."""
    return (states * weights).sum(3, keepdim=True) if constant else torch.matmul(weights.transpose(3, 4), states)


def _contract_channels(states: Tensor, values: Tensor, constant: bool) -> Tensor:
    """Gradient of a state map: summed over channels (steps, batch, groups, d_state, 1), or over time and batch
    (groups, d_state, channels) when the map is constant."""
    return (states * values).sum((0, 1)) if constant else torch.matmul(states, values.transpose(3, 4))


class _Scan(torch.autograd.Function):
    """y_t = C_t . h_t (complex: twice the real part), h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t.

    Mamba, Gu and Dao 2023, equation 2 with section 3.2's discretisation. u: (batch, d_inner, length), any floating dtype; dt: the same
    shape, float32 or float64; rates: (d_inner, d_state). The forward pass keeps the state at the start of every chunk, the
    backward pass recomputes the chunk from it. As upstream, no gradient flows through the last state.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, dt: Tensor, rates: Tensor, B: Tensor, C: Tensor, groups: int) -> Any:
        layout = _Layout(u, dt, rates, B, C, groups)
        length, steps = u.shape[2], _chunk_length(u, rates.shape[1])
        y = torch.empty_like(dt)  # upstream's output has the layout of delta, too
        y_out = layout.by_channel(y)
        state = layout.rates.new_zeros(u.shape[0], *layout.rates.shape)
        starts = []
        for begin in range(0, length, steps):
            chunk = slice(begin, begin + steps)
            starts.append(state)
            _, _, states = _chunk_states(layout, chunk, state, rates.dtype)
            state = states[-1].clone()
            C_t = _of_chunk(layout.C, chunk, layout.constant_C, rates.dtype)
            y_t = _contract_states(C_t, states[1:], layout.constant_C)
            y_out[chunk] = 2 * y_t.real if y_t.is_complex() else y_t
        ctx.save_for_backward(u, dt, rates, B, C, *starts)
        ctx.groups, ctx.steps = groups, steps
        last_state = state.transpose(2, 3).flatten(1, 2)
        ctx.mark_non_differentiable(last_state)
        return y, last_state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, _: Any) -> Any:
        u, dt, rates, B, C, *starts = ctx.saved_tensors
        with full_precision(u.device):
            return *_backward(dy, u, dt, rates, B, C, starts, ctx.groups, ctx.steps), None


def _chunk_states(layout: _Layout, chunk: slice, state: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """decay: (steps, batch, groups, d_state, channels); dt * u: (steps, batch, groups, 1, channels); the states before
    and after every step: (steps + 1, batch, groups, d_state, channels)."""
    dt = layout.dt[chunk].contiguous()
    decay = (dt * layout.rates).exp_()
    dtu = (dt * layout.u[chunk]).to(dtype)
    states = torch.empty((len(dt) + 1, *decay.shape[1:]), dtype=dtype, device=decay.device)
    states[0] = state
    torch.mul(_of_chunk(layout.B, chunk, layout.constant_B, dtype), dtu, out=states[1:])
    linear_recurrence_(states[1:], decay, states[0], segment=_segment_length(decay.device))
    return decay, dtu, states


def _backward(
    dy: Tensor, u: Tensor, dt: Tensor, rates: Tensor, B: Tensor, C: Tensor, starts: list[Tensor], groups: int, steps: int
) -> tuple[Tensor, ...]:
    """Gradients of u, dt, rates, B and C. The adjoint state g_t = C_t dy_t + conj(decay_{t+1}) g_{t+1} runs backwards."""
    layout, dtype = _Layout(u, dt, rates, B, C, groups), rates.dtype
    du, ddt = torch.empty_like(u), torch.empty_like(dt)
    dB, dC = (torch.zeros_like(X, dtype=dtype) for X in (B, C))
    drates = torch.zeros_like(layout.rates)
    du_out, ddt_out, dB_out, dC_out = layout.by_channel(du), layout.by_channel(ddt), layout.state_map(dB), layout.state_map(dC)
    dy_in = layout.by_channel(dy)
    # decay into, and adjoint of, the first step of the chunk after this one
    next_decay = next_adjoint = layout.rates.new_zeros(u.shape[0], *layout.rates.shape)
    for index in range(len(starts) - 1, -1, -1):
        chunk = slice(index * steps, (index + 1) * steps)
        decay, dtu, states = _chunk_states(layout, chunk, starts[index], dtype)
        decay, before, after = decay.conj(), states[:-1].conj(), states[1:].conj()
        B_t = _of_chunk(layout.B, chunk, layout.constant_B, dtype).conj()
        C_t = _of_chunk(layout.C, chunk, layout.constant_C, dtype).conj()
        dy_t = dy_in[chunk].to(dtype).contiguous() * (2 if dtype.is_complex else 1)
        _add(dC_out, chunk, _contract_channels(after, dy_t, layout.constant_C), layout.constant_C)
        adjoint = C_t * dy_t
        arriving = torch.cat([decay[1:], next_decay[None]])
        linear_recurrence_(adjoint, arriving, next_adjoint, reverse=True, segment=_segment_length(adjoint.device))
        next_decay, next_adjoint = decay[0].clone(), adjoint[0].clone()
        _add(dB_out, chunk, _contract_channels(adjoint, dtu, layout.constant_B), layout.constant_B)
        ddtu = _real(_contract_states(B_t, adjoint, layout.constant_B))
        dexponent = adjoint.mul_(before).mul_(decay)
        dt_t = layout.dt[chunk]
        du_out[chunk] = (dt_t * ddtu).to(u.dtype)
        ddt_out[chunk] = ddtu * layout.u[chunk] + _real((dexponent * layout.rates.conj()).sum(3, keepdim=True))
        drates += dexponent.mul_(dt_t).sum((0, 1))
    return du, ddt, drates.transpose(1, 2).flatten(0, 1), _like(dB, B), _like(dC, C)


def _add(total: Tensor, chunk: slice, part: Tensor, constant: bool) -> None:
    if constant:
        total[0] += part
    else:
        total[chunk] = part


def _real(x: Tensor) -> Tensor:
    return x.real if x.is_complex() else x


def _like(gradient: Tensor, of: Tensor) -> Tensor:
    return gradient.to(of.dtype)

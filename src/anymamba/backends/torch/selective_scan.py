"""Mamba-1's selective scan, chunk by chunk: state and gradients exist for one chunk of time steps only."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.backends.documents import starts
from anymamba.backends.torch import supports as supports
from anymamba.backends.torch.precision import full_precision, wide_dtype
from anymamba.backends.torch.recurrence import linear_recurrence_
from anymamba.backends.transforms import differentiated_again, transformed


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
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """See anymamba.ops.selective_scan.selective_scan. u, delta, z: (batch, d_inner, length), any strides."""
    with full_precision(u.device):
        wide = wide_dtype(u, delta, A, B, C, D, z, delta_bias)
        dt = delta.to(wide)
        if delta_bias is not None:
            dt = dt + delta_bias.to(wide)[:, None]
        if delta_softplus:
            dt = F.softplus(dt)
        rates = A.to(wide.to_complex() if A.is_complex() else wide)
        maps = [_state_map(X, A.is_complex(), rates.dtype) for X in (B, C)]
        padding = borders = None
        if seq_idx is not None:
            padding, borders = (seq_idx < 0)[:, None], starts(seq_idx)
            # to the scan, a padding token is a step of zero that adds nothing, whatever is in it
            dt, x = dt.masked_fill(padding, 0), u.masked_fill(padding, 0)
            maps = [X.masked_fill(padding[:, None], 0) if X.dim() == 4 else X for X in maps]
        else:
            x = u
        groups = math.lcm(*(X.shape[1] for X in maps if X.dim() == 4))
        maps = [X.repeat_interleave(groups // X.shape[1], dim=1) if X.dim() == 4 else X for X in maps]
        given: Any = (x, dt, rates, *maps, initial_states, borders, groups)
        y, last_state = _by_token(*given) if transformed() else _Scan.apply(*given)
        if D is not None:
            y = torch.addcmul(y, D.to(wide)[:, None], u.to(wide))
        if z is not None:
            y = y * F.silu(z.to(wide))
        if padding is not None:
            y = y.masked_fill(padding, 0)
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


class _StateMap:
    """B or C, or its gradient, as (length, batch, groups, d_state, 1), or (1, 1, groups, d_state, channels) when constant in time."""

    def __init__(self, x: Tensor, groups: int) -> None:
        self.constant = x.dim() == 2
        self.values = _by_group(x, groups)[None, None] if self.constant else x.permute(3, 0, 1, 2).unsqueeze(4)

    def of_chunk(self, chunk: slice, dtype: torch.dtype) -> Tensor:
        return (self.values if self.constant else self.values[chunk]).to(dtype).contiguous()

    def contract(self, of_chunk: Tensor, states: Tensor) -> Tensor:
        """Sum over d_state of map times states: (steps, batch, groups, 1, channels)."""
        if self.constant:
            return (states * of_chunk).sum(3, keepdim=True)
        return torch.matmul(of_chunk.transpose(3, 4), states)

    def add_gradient(self, chunk: slice, states: Tensor, values: Tensor) -> None:
        """Writes states times values, summed over all that share an element of the map."""
        if self.constant:
            self.values[0, 0] += (states * values).sum((0, 1))
        else:
            self.values[chunk] = torch.matmul(states, values.transpose(3, 4))


class _Layout:
    """The operands with time first and channels last: (length, batch, groups, d_state, channels of a group).

    Channels last because d_state is small and every operand but B and C varies along channels; views wherever the strides
    allow, so that only chunks are ever copied."""

    def __init__(
        self, u: Tensor, dt: Tensor, rates: Tensor, B: Tensor, C: Tensor, borders: Tensor | None, groups: int
    ) -> None:
        self.u, self.dt = _by_channel(u, groups), _by_channel(dt, groups)
        self.borders = None if borders is None else borders.mT[:, :, None, None, None]  # (length, batch, 1, 1, 1)
        self.rates = _by_group(rates, groups).contiguous()
        self.B, self.C = _StateMap(B, groups), _StateMap(C, groups)


def _by_channel(x: Tensor, groups: int) -> Tensor:
    """(batch, d_inner, length) as (length, batch, groups, 1, channels)."""
    return x.permute(2, 0, 1).unflatten(2, (groups, -1)).unsqueeze(3)


def _by_group(x: Tensor, groups: int) -> Tensor:
    """(d_inner, d_state) as (groups, d_state, channels)."""
    return x.unflatten(0, (groups, -1)).transpose(1, 2)


class _Scan(torch.autograd.Function):
    """y_t = C_t . h_t (complex: twice the real part), h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t.

    Mamba, Gu and Dao 2023, equation 2 with the discretisation of section 3.2. u: (batch, d_inner, length), any floating dtype; dt: the
    same shape, float32 or float64; rates: (d_inner, d_state). initial: (batch, d_inner, d_state), what h starts from. borders:
    (batch, length), true where h starts from zero again. The forward pass keeps the state at the start of every chunk, the
    backward pass recomputes the chunk from it. As upstream, no gradient flows through the last state.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, dt: Tensor, rates: Tensor, B: Tensor, C: Tensor, initial: Tensor | None, borders: Tensor | None, groups: int
    ) -> Any:
        layout = _Layout(u, dt, rates, B, C, borders, groups)
        length, steps = u.shape[2], _chunk_length(u, rates.shape[1])
        y = torch.empty_like(dt)  # upstream's output has the layout of delta, too
        y_out = _by_channel(y, groups)
        state = layout.rates.new_zeros(u.shape[0], *layout.rates.shape)
        if initial is not None:  # a copy: the caller may change it before the backward pass
            state.copy_(initial.unflatten(1, (groups, -1)).transpose(2, 3))
        work = _Work(min(steps, length), state)
        chunk_states = []
        for begin in range(0, length, steps):
            chunk = slice(begin, min(begin + steps, length))
            chunk_states.append(state)
            states = work.run(layout, chunk, state)[2]
            state = states[-1].clone()
            y_t = layout.C.contract(layout.C.of_chunk(chunk, state.dtype), states[1:])
            y_out[chunk] = 2 * y_t.real if y_t.is_complex() else y_t
        leaf = initial if ctx.needs_input_grad[5] else None  # what a second derivative reaches; else its values are in chunk_states
        ctx.save_for_backward(u, dt, rates, B, C, leaf, borders, *chunk_states)
        ctx.groups, ctx.steps = groups, steps
        ctx.initial = None if initial is None else initial.dtype
        last_state = state.transpose(2, 3).flatten(1, 2)
        ctx.mark_non_differentiable(last_state)
        return y, last_state

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Any) -> Any:
        u, dt, rates, B, C, leaf, borders, *chunk_states = ctx.saved_tensors
        with full_precision(u.device):
            if torch.is_grad_enabled():  # create_graph=True
                start = chunk_states[0].transpose(2, 3).flatten(1, 2) if leaf is None else leaf

                def scanned(u: Tensor, dt: Tensor, rates: Tensor, B: Tensor, C: Tensor, start: Tensor) -> Tensor:
                    return _by_token(u, dt, rates, B, C, start, borders, ctx.groups)[0]

                return *differentiated_again(scanned, (u, dt, rates, B, C, start), dy), None, None
            layout = _Layout(u, dt, rates, B, C, borders, ctx.groups)
            *gradients, initial = _backward(layout, dy, u, dt, rates, B, C, chunk_states, ctx.groups, ctx.steps)
        if ctx.initial is None:
            return *gradients, None, None, None
        return *gradients, (initial if ctx.initial.is_complex else _real(initial)).to(ctx.initial), None, None


def _by_token(
    u: Tensor, dt: Tensor, rates: Tensor, B: Tensor, C: Tensor, initial: Tensor | None, borders: Tensor | None, groups: int
) -> tuple[Tensor, Tensor]:
    """``_Scan`` in operations that torch itself differentiates and transforms, one token after another."""
    shared = rates.shape[0] // groups
    B, C = (X.to(rates.dtype) for X in (B, C))
    B_at, C_at = (X[None, ..., None] if X.dim() == 2 else X.repeat_interleave(shared, dim=1) for X in (B, C))
    state = rates.new_zeros(u.shape[0], *rates.shape) if initial is None else initial.to(rates.dtype)
    outputs = []
    for t in range(u.shape[2]):
        B_t, C_t = (X[..., min(t, X.shape[-1] - 1)] for X in (B_at, C_at))
        step, token = dt[:, :, t, None], u[:, :, t, None].to(dt.dtype)
        if borders is not None:
            state = state.masked_fill(borders[:, t, None, None], 0)
        state = torch.exp(step * rates) * state + step * token * B_t
        y = (C_t * state).sum(2)
        outputs.append(2 * y.real if y.is_complex() else y)
    return torch.stack(outputs, 2), state.detach()


class _Work:
    """The tensors with a d_state axis of one chunk, used again for every chunk: fresh memory costs as much as computing."""

    def __init__(self, steps: int, state: Tensor) -> None:
        self.decay = state.new_empty(steps, *state.shape)
        self.states = state.new_empty(steps + 1, *state.shape)

    def run(self, layout: _Layout, chunk: slice, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """decay: (steps, batch, groups, d_state, channels); dt * u: (steps, batch, groups, 1, channels); the states before
        and after every step: (steps + 1, batch, groups, d_state, channels)."""
        dt = layout.dt[chunk].contiguous()
        decay, states = self.decay[: len(dt)], self.states[: len(dt) + 1]
        torch.mul(dt, layout.rates, out=decay).exp_()
        dtu = (dt * layout.u[chunk]).to(state.dtype)
        states[0] = state
        torch.mul(layout.B.of_chunk(chunk, state.dtype), dtu, out=states[1:])
        borders = None if layout.borders is None else layout.borders[chunk]
        if borders is not None:
            decay.masked_fill_(borders, 0)
        linear_recurrence_(states[1:], decay, state, segment=_segment_length(state.device), borders=borders)
        return decay, dtu, states


def _backward(
    layout: _Layout, dy: Tensor, u: Tensor, dt: Tensor, rates: Tensor, B: Tensor, C: Tensor, chunk_states: list[Tensor],
    groups: int, steps: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of u, dt, rates, B, C and the initial state. The adjoint state g_t = C_t dy_t + conj(decay_{t+1}) g_{t+1} runs
    backwards."""
    dtype, length = rates.dtype, u.shape[2]
    du, ddt = torch.empty_like(u), torch.empty_like(dt)
    dB, dC = (torch.zeros_like(X, dtype=dtype) for X in (B, C))
    drates = torch.zeros_like(layout.rates)
    dy_in, du_out, ddt_out = (_by_channel(x, groups) for x in (dy, du, ddt))
    dB_out, dC_out = _StateMap(dB, groups), _StateMap(dC, groups)
    # decay into, and adjoint of, the first step of the chunk after this one
    next_decay = next_adjoint = layout.rates.new_zeros(u.shape[0], *layout.rates.shape)
    work = _Work(min(steps, length), next_adjoint)
    adjoints, scratch = torch.empty_like(work.decay), torch.empty_like(work.decay)
    # is the first step of the chunk after this one a document's
    next_border = None if layout.borders is None else torch.zeros_like(layout.borders[:1])
    for index in range(len(chunk_states) - 1, -1, -1):
        chunk = slice(index * steps, min((index + 1) * steps, length))
        decay, dtu, states = work.run(layout, chunk, chunk_states[index])
        adjoint, arriving = adjoints[: len(decay)], scratch[: len(decay)]
        before, after = states[:-1].conj(), states[1:].conj()
        B_t, C_t = (X.of_chunk(chunk, dtype).conj() for X in (layout.B, layout.C))
        dy_t = dy_in[chunk].to(dtype).contiguous() * (2 if dtype.is_complex else 1)
        dC_out.add_gradient(chunk, after, dy_t)
        torch.mul(C_t, dy_t, out=adjoint)
        arriving[:-1], arriving[-1] = decay[1:].conj(), next_decay.conj()
        borders = own = None
        if layout.borders is not None and next_border is not None:
            own = layout.borders[chunk]
            borders, next_border = torch.cat([own[1:], next_border]), own[:1]
        segment = _segment_length(adjoint.device)
        linear_recurrence_(adjoint, arriving, next_adjoint, reverse=True, segment=segment, borders=borders)
        next_decay, next_adjoint = decay[0].clone(), adjoint[0].clone()
        dB_out.add_gradient(chunk, adjoint, dtu)
        ddtu = _real(layout.B.contract(B_t, adjoint))
        dexponent = adjoint.mul_(before).mul_(decay.conj())
        if own is not None:  # no state arrives there
            dexponent.masked_fill_(own, 0)
        dt_t = layout.dt[chunk]
        du_out[chunk] = (dt_t * ddtu).to(u.dtype)
        product = torch.mul(dexponent, layout.rates.conj(), out=arriving)
        ddt_out[chunk] = ddtu * layout.u[chunk] + _real(product.sum(3, keepdim=True))
        drates += dexponent.mul_(dt_t).sum((0, 1))
    initial = (next_decay.conj() * next_adjoint).transpose(2, 3).flatten(1, 2)
    return du, ddt, drates.transpose(1, 2).flatten(0, 1), dB.to(B.dtype), dC.to(C.dtype), initial


def _real(x: Tensor) -> Tensor:
    return x.real if x.is_complex() else x

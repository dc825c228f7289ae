"""Mamba-2's scan as products of small matrices (state space duality), a block of chunks at a time.

Mamba-2, Dao and Gu 2024, section 6 (algorithm 1): inside a chunk of Q steps the scan is a masked (Q, Q) product, between chunks a state is
passed on. A block holds as many chunks as fill the device; with gradients, a block is recomputed in the backward pass, so that
memory stays at one block of (Q, Q) matrices.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from anymamba.backends.torch import supports as supports
from anymamba.backends.torch.precision import full_precision, has_float64, wide_dtype
from anymamba.backends.transforms import transformed


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
    state_dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """See anymamba.ops.mamba_chunk_scan_combined. x, z: (batch, length, nheads, headdim), any strides.

    chunk_size does not change the result; the chunk that suits the device is used."""
    with full_precision(x.device):
        wide = wide_dtype(x, dt, A, B, C, D, z, dt_bias, initial_states)
        steps = dt.to(wide) if dt_bias is None else dt.to(wide) + dt_bias.to(wide)
        if dt_softplus:
            steps = F.softplus(steps)
        if not dt_softplus or tuple(dt_limit) != (0.0, float("inf")):
            steps = steps.clamp(*dt_limit)
        padding = None if seq_idx is None else (seq_idx < 0).unsqueeze(-1)
        if seq_idx is not None and padding is not None:
            steps = steps.masked_fill(padding, 0)  # neither decays the state nor adds to it
            seq_idx = _documents(seq_idx)
        exponents = steps * A.to(wide)
        y, state = scan(x, steps, exponents, B, C, initial_states, seq_idx)
        if D is not None:
            y = torch.addcmul(y, D.to(wide) if D.dim() == 2 else D.to(wide)[:, None], x.to(wide))
        if z is not None:
            y = y * F.silu(z.to(wide))
        if padding is not None:
            y = y.masked_fill(padding.unsqueeze(-1), 0)
        outputs = [y.to(x.dtype)]
        if return_final_states:
            outputs.append(state)
        if return_varlen_states:
            assert cu_seqlens is not None
            states = _varlen_states(x, steps, exponents, B, C, initial_states, seq_idx, cu_seqlens)
            outputs.append(states.to(C.dtype if state_dtype is None else state_dtype))
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def scan(
    x: Tensor,
    weights: Tensor,
    exponents: Tensor,
    B: Tensor,
    C: Tensor,
    initial_states: Tensor | None,
    seq_idx: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """h[t] = exp(exponents[t]) h[t-1] + weights[t] x[t] B[t]^T;  y[t] = h[t] C[t]. For Mamba-2 weights are dt and exponents dt A.

    x: (batch, length, nheads, headdim); weights, exponents: (batch, length, nheads), in float32 or float64.
    y: (batch, length, nheads, headdim) and the last state (batch, nheads, headdim, d_state), in the dtype of weights.

    seq_idx: (batch, length), never falling; initial_states belong to the first document."""
    batch, length, heads, headdim = x.shape
    groups, d_state = B.shape[2:]
    shape = batch, groups, heads // groups, headdim, d_state
    if initial_states is None:
        state = weights.new_zeros(shape)
    else:
        state = initial_states.to(weights.dtype).unflatten(1, (groups, -1))
    state_idx = None if seq_idx is None or not length else seq_idx[:, 0]
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (x, weights, exponents, B, C, state))
    blocks = _blocks(length, batch * heads, x.device)
    # split, not slices: the gradient of a slice is as long as the sequence, so that of all blocks would be quadratic
    parts = [t.split([steps for steps, _ in blocks], dim=1) for t in (x, weights, exponents, B, C)] if blocks else [()] * 5
    outputs, begin = [], 0
    for (steps, chunk), *operands in zip(blocks, *parts):
        idx = None if seq_idx is None else seq_idx[:, begin : begin + steps]
        operands += [state, idx, state_idx, chunk]
        if needs_grad and not transformed():
            y, state = checkpoint(
                _block, *operands, use_reentrant=False, preserve_rng_state=False, determinism_check="none"
            )
        else:
            y, state = _block(*operands)
        outputs.append(y)
        state_idx = None if idx is None else idx[:, -1]
        begin += steps
    y = torch.cat(outputs, dim=1) if outputs else torch.zeros_like(x, dtype=weights.dtype)
    return y, state.flatten(1, 2)


def _documents(seq_idx: Tensor) -> Tensor:
    """Numbers the documents of each row 0, 1, 2, ... in order of appearance; a padding token (below 0) gets the number of the
    document before it. (batch, length) in and out."""
    ids = seq_idx.cpu() if seq_idx.device.type == "mps" else seq_idx  # MPS lacks cummax
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    last_real = positions.masked_fill(ids < 0, -1).cummax(1).values if ids.numel() else positions
    ids = ids.gather(1, last_real.clamp(min=0)).masked_fill(last_real < 0, -1)
    starts = (ids[:, 1:] != ids[:, :-1]) & (ids[:, :-1] >= 0)
    return F.pad(starts.cumsum(1), (1, 0)).to(seq_idx.device) if ids.shape[1] else seq_idx


def _blocks(length: int, sequences: int, device: torch.device) -> list[tuple[int, int]]:
    """(steps, chunk): blocks of whole chunks, then one shorter chunk for what is left."""
    cpu = device.type == "cpu"
    chunk = 64 if cpu else 128
    target = 2**20 if cpu else 2**26  # elements of the (Q, Q) matrices of a block
    block = max(target // max(sequences * chunk * chunk, 1), 1) * chunk
    whole, rest = length // chunk * chunk, length % chunk
    blocks = [(min(block, whole - begin), chunk) for begin in range(0, whole, block)]
    return blocks + ([(rest, rest)] if rest else [])


def _block(
    x: Tensor,
    weights: Tensor,
    exponents: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    seq_idx: Tensor | None,
    state_idx: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Shapes within: batch b, chunks c, steps of a chunk q, groups g, heads of a group r, headdim p, d_state n.

    state: (b, g, r, p, n) arriving, and the sequence it belongs to, state_idx: (b,)."""
    groups = B.shape[2]
    weights, exponents = (t.unflatten(1, (-1, chunk)).unflatten(3, (groups, -1)) for t in (weights, exponents))  # b c q g r
    xdt = x.unflatten(1, (-1, chunk)).unflatten(3, (groups, -1)) * weights.unsqueeze(-1)  # b c q g r p
    B, C = (X.to(weights.dtype).unflatten(1, (-1, chunk)).transpose(2, 3) for X in (B, C))  # b c g q n
    exact = torch.float64 if has_float64(exponents.device) else exponents.dtype
    total = exponents.permute(0, 1, 3, 4, 2).to(exact).cumsum(-1)  # b c g r q
    future = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    steps = torch.arange(chunk, device=x.device)
    to_end = _decays(total[..., -1:], total, weights.dtype, same=steps == chunk - 1)  # b c g r 1 q
    from_start = total.to(weights.dtype).exp()  # b c g r q
    through = from_start[..., -1]  # b c g r
    if seq_idx is not None and state_idx is not None:
        idx = seq_idx.unflatten(1, (-1, chunk))  # b c q
        arriving = torch.cat([state_idx.unsqueeze(1), idx[:, :-1, -1]], dim=1)  # b c
        future = (future | (idx.unsqueeze(3) != idx.unsqueeze(2)))[:, :, None, None]
        to_end = to_end * (idx == idx[:, :, -1:])[:, :, None, None, None]
        from_start = from_start * (idx == arriving.unsqueeze(2))[:, :, None, None]
        through = through * (idx[:, :, -1] == arriving)[:, :, None, None]
    decay = _decays(total, total, weights.dtype, same=steps[:, None] == steps, never=future)  # b c g r q q
    scores = torch.matmul(C, B.transpose(-1, -2)).unsqueeze(3) * decay
    y = torch.matmul(scores, xdt.permute(0, 1, 3, 4, 2, 5))  # b c g r q p
    weighted = xdt.permute(0, 1, 3, 4, 5, 2) * to_end  # b c g r p q
    chunk_increments = torch.matmul(weighted.flatten(3, 4), B).unflatten(3, (-1, x.shape[-1]))  # b c g r p n
    states = []
    for more, chunk_decay in zip(chunk_increments.unbind(1), through[..., None, None].unbind(1)):
        states.append(state)
        state = torch.addcmul(more, chunk_decay, state)
    before = torch.stack(states, dim=1).flatten(3, 4)  # b c g (r p) n
    from_states = torch.matmul(C, before.transpose(-1, -2)).unflatten(4, (-1, x.shape[-1]))  # b c g q r p
    from_states = from_states.transpose(3, 4) * from_start.unsqueeze(-1)
    y = (y + from_states).permute(0, 1, 4, 2, 3, 5).reshape(x.shape)
    return y, state


def _decays(to: Tensor, since: Tensor, dtype: torch.dtype, same: Tensor, never: Tensor | None = None) -> Tensor:
    """exp(to_i - since_j) in dtype for every pair of steps, (..., i, j), and 0 where never. Masked before the exponential: what lies
    in the future would overflow, and its gradient would be NaN.

    same: where both are one step. Its decay is 1 whatever the exponents are, but autograd would add and subtract the largest of all
    gradients there, and what is left of the others is lost in rounding when they are small."""
    between = (to.unsqueeze(-1) - since.unsqueeze(-2)).to(dtype) if transformed() else _Difference.apply(to, since, dtype)
    difference = between.masked_fill(same, 0.0)
    return (difference if never is None else difference.masked_fill(never, float("-inf"))).exp()


class _Difference(torch.autograd.Function):
    """to_i - since_j for every pair, (..., i, j) in dtype, of (..., i) and (..., j) in their own, float64 where the device has it.

    The difference of two long sums of nearly equal size has lost its digits in float32; so has the difference of the sums over i and j
    that its gradients are. No matrix of pairs is made in float64 as a whole: it would be the largest tensor of all."""

    @staticmethod
    def forward(ctx: Any, to: Tensor, since: Tensor, dtype: torch.dtype) -> Tensor:
        coarse_to, coarse_since = to.to(dtype), since.to(dtype)
        rest = (to - coarse_to).to(dtype).unsqueeze(-1) - (since - coarse_since).to(dtype).unsqueeze(-2)
        return rest.add_(coarse_to.unsqueeze(-1) - coarse_since.unsqueeze(-2))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        exact = torch.float64 if has_float64(grad.device) else grad.dtype
        if exact == grad.dtype:
            return grad.sum(-1), -grad.sum(-2), None
        pairs = grad.flatten(0, -3)
        parts = pairs.split(max(2**22 // max(pairs[:1].numel(), 1), 1))
        to, since = (torch.cat([part.sum(dim, dtype=exact) for part in parts]).unflatten(0, grad.shape[:-2]) for dim in (-1, -2))
        return to, -since, None


def _varlen_states(
    x: Tensor,
    weights: Tensor,
    exponents: Tensor,
    B: Tensor,
    C: Tensor,
    initial_states: Tensor | None,
    seq_idx: Tensor | None,
    cu_seqlens: Tensor,
) -> Tensor:
    """The state that each packed sequence leaves on its own: (sequences, nheads, headdim, d_state). No gradient, as upstream."""
    states = [x.new_zeros(0, *x.shape[2:], B.shape[3], dtype=weights.dtype)]
    borders = cu_seqlens.tolist()
    with torch.no_grad():
        for begin, end in zip(borders, borders[1:]):
            part = slice(begin, end)
            initial = initial_states if begin == 0 < end else None
            idx = None if seq_idx is None else seq_idx[:, part]
            own = x[:, part], weights[:, part], exponents[:, part], B[:, part], C[:, part]
            states.append(scan(*own, initial, idx)[1])
        return torch.cat(states)

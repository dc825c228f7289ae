"""Mamba-3 as Mamba-2's chunked scan over tokens that are shifted by one.

With gamma[t] = trap[t] DT[t] and beta[t] = (1 - trap[t]) DT[t], the state before token t adds its own value, H[t] = S[t] - gamma[t]
v[t] k[t]^T, obeys H[t] = a[t] H[t-1] + a[t] (beta[t] + gamma[t-1]) v[t-1] k[t-1]^T: a scan with a weight, a value and a key a token.
The rest of y[t] = S[t] q[t] is gamma[t] (q[t] . k[t]) v[t], and nothing cancels. MIMO is the same scan over rank tokens a token, of
which only the first decays; a query of that scan misses the later ones of its own token, whose few terms are added.

``serve_siso`` and ``serve_mimo`` take the scan as an argument, for backends that have a faster one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.backends.torch import ssd
from anymamba.backends.torch import supports as supports
from anymamba.backends.torch.mamba3_rotation import packed_tokens, rotated, running_angles
from anymamba.backends.torch.precision import full_precision, wide_dtype

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, "Tensor | None", "Tensor | None"], tuple[Tensor, Tensor]]
"""(x, weights, exponents, B, C, initial_states, seq_idx) -> (y, last state): ``backends.torch.ssd.scan``."""


def mamba3_siso(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ADT: Tensor,
    DT: Tensor,
    Trap: Tensor,
    Q_bias: Tensor,
    K_bias: Tensor,
    Angles: Tensor,
    D: Tensor | None = None,
    Z: Tensor | None = None,
    angle_state: Tensor | None = None,
    ssm_state: Tensor | None = None,
    k_state: Tensor | None = None,
    v_state: Tensor | None = None,
    chunk_size: int = 64,
    return_final_states: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """See anymamba.ops.mamba3_siso. V, Z: (batch, length, nheads, headdim), any strides. chunk_size does not change the result."""
    states = (angle_state, ssm_state, k_state, v_state)
    return serve_siso(ssd.scan, Q, K, V, ADT, DT, Trap, Q_bias, K_bias, Angles, D, Z, states, return_final_states, cu_seqlens)


def mamba3_mimo(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ADT: Tensor,
    DT: Tensor,
    Trap: Tensor,
    Q_bias: Tensor,
    K_bias: Tensor,
    MIMO_V: Tensor,
    MIMO_Z: Tensor | None,
    MIMO_Out: Tensor | None,
    Angles: Tensor,
    D: Tensor | None,
    Z: Tensor | None,
    chunk_size: int,
    rotary_dim_divisor: int,
    dtype: torch.dtype | None,
    return_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """See anymamba.ops.mamba3_mimo. V, Z: (batch, length, nheads, headdim), any strides. chunk_size does not change the result."""
    projections = MIMO_V, MIMO_Z, MIMO_Out
    return serve_mimo(
        ssd.scan, Q, K, V, ADT, DT, Trap, Q_bias, K_bias, projections, Angles, D, Z, dtype, return_state, cu_seqlens
    )


def serve_siso(
    scan: Scan, Q: Tensor, K: Tensor, V: Tensor, ADT: Tensor, DT: Tensor, Trap: Tensor, Q_bias: Tensor, K_bias: Tensor,
    Angles: Tensor, D: Tensor | None, Z: Tensor | None, states: tuple[Tensor | None, ...], return_final_states: bool,
    cu_seqlens: Tensor | None,
) -> Tensor | tuple[Tensor, ...]:  # fmt: skip
    with full_precision(V.device):
        wide = wide_dtype(Q, K, V, ADT, DT, Trap, Q_bias, K_bias, Angles, D, Z, states[1])
        given = None
        if (k_state := states[2]) is not None:
            given = (states[0], states[1], k_state.unsqueeze(1), states[3])
        biases = Q_bias.unsqueeze(0), K_bias.unsqueeze(0)
        tokens = _Tokens(Q.unsqueeze(2), K.unsqueeze(2), V, ADT.mT.to(wide), DT.mT.to(wide), Trap.mT.to(wide), Angles)
        y, final = _all(scan, tokens, biases, None, True, given, cu_seqlens, return_final_states)
        y = y.squeeze(2)
        if D is not None:
            y = torch.addcmul(y, D.to(wide)[:, None], V.to(wide))
        if Z is not None:
            y = y * F.silu(Z.to(wide))
        out = y.to(V.dtype)
        return (out, final[0], final[1], final[2].squeeze(1), final[3]) if return_final_states else out


def serve_mimo(
    scan: Scan, Q: Tensor, K: Tensor, V: Tensor, ADT: Tensor, DT: Tensor, Trap: Tensor, Q_bias: Tensor, K_bias: Tensor,
    projections: tuple[Tensor, Tensor | None, Tensor | None], Angles: Tensor, D: Tensor | None, Z: Tensor | None,
    dtype: torch.dtype | None, return_state: bool, cu_seqlens: Tensor | None,
) -> Tensor | tuple[Tensor, ...]:  # fmt: skip
    with full_precision(V.device):
        wide = wide_dtype(Q, K, V, ADT, DT, Trap, Q_bias, K_bias, *projections, Angles, D, Z)
        up, gate, down = (None if p is None else p.to(wide).transpose(0, 1) for p in projections)
        assert up is not None
        biases = Q_bias.transpose(0, 1), K_bias.transpose(0, 1)
        tokens = _Tokens(Q, K, V, ADT.mT.to(wide), DT.mT.to(wide), Trap.mT.to(wide), Angles)
        y, final = _all(scan, tokens, biases, up, False, None, cu_seqlens, return_state)
        if D is not None:
            y = torch.addcmul(y, D.to(wide)[:, None] * up, V.to(wide).unsqueeze(2))
        if Z is not None:
            assert gate is not None
            y = y * F.silu(Z.to(wide).unsqueeze(2) * gate)
        if down is not None:
            y = (y * down).sum(2)
        out = y.to(dtype or V.dtype)
        return (out, *final) if return_state else out


@dataclass
class _Tokens:
    """q, k (batch, length, rank, ngroups, d_state), v (batch, length, nheads, headdim), exponents, steps, trap (batch, length, nheads)
    in float32 or float64, angles (batch, length, nheads, num_angles)."""

    q: Tensor
    k: Tensor
    v: Tensor
    exponents: Tensor
    steps: Tensor
    trap: Tensor
    angles: Tensor

    def of(self, part: slice) -> _Tokens:
        return _Tokens(*(tensor[:, part] for tensor in vars(self).values()))


def _all(
    scan: Scan, tokens: _Tokens, biases: tuple[Tensor, Tensor], up: Tensor | None, neighbours: bool,
    states: tuple[Tensor | None, ...] | None, cu_seqlens: Tensor | None, return_final: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
    """S q: (batch, length, rank, nheads, headdim), and the four states; packed sequences in one scan unless states pass in or out."""
    if cu_seqlens is None or not (return_final or states is not None):
        return _rows(scan, tokens, biases, up, neighbours, states, cu_seqlens, return_final)
    outputs, finals = [], []
    borders = cu_seqlens.tolist()
    for i, (first, end) in enumerate(zip(borders[:-1], borders[1:])):
        own = None if states is None else tuple(None if s is None else s[i : i + 1] for s in states)
        y, final = _rows(scan, tokens.of(slice(first, end)), biases, up, neighbours, own, None, return_final)
        outputs.append(y)
        finals.append(final)
    return torch.cat(outputs, dim=1), tuple(torch.cat(parts) for parts in zip(*finals))


def _rows(
    scan: Scan, tokens: _Tokens, biases: tuple[Tensor, Tensor], up: Tensor | None, neighbours: bool,
    states: tuple[Tensor | None, ...] | None, cu_seqlens: Tensor | None, return_final: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
    batch, length, rank = tokens.q.shape[:3]
    steps, wide = tokens.steps, tokens.steps.dtype
    angle_state, ssm_state, k_state, v_state = states or (None,) * 4
    seq_idx = begins = None
    if cu_seqlens is not None:
        sequence, begins = packed_tokens(cu_seqlens, length)
        seq_idx = sequence.repeat_interleave(rank).expand(batch, -1)
    before = None if angle_state is None else angle_state.unsqueeze(1)
    angles = running_angles(tokens.angles, steps, before, begins, wide)
    q, k = (rotated(x, bias, angles, neighbours) for x, bias in zip((tokens.q, tokens.k), biases))
    v = tokens.v.unsqueeze(2) if up is None else tokens.v.to(wide).unsqueeze(2) * up
    if v_state is not None:
        v_state = v_state.unsqueeze(1) if up is None else v_state.unsqueeze(1) * up
    k_before, v_before = _before(k, k_state), _before(v, v_state)

    share = torch.sigmoid(tokens.trap)
    gamma, beta = share * steps, torch.sigmoid(-tokens.trap) * steps
    earlier = F.pad(gamma, (0, 0, 1, 0))[:, :length]
    weights = torch.exp(tokens.exponents) * (beta + earlier)
    if begins is not None:
        first = torch.arange(length, device=begins.device) == begins
        weights = weights.masked_fill(first[:, None], 0)
    y, state = _scan_ranks(scan, q, k_before, v_before, weights, tokens.exponents, ssm_state, seq_idx)
    if rank == 1:
        y = torch.addcmul(y, (gamma.unsqueeze(2) * (q * k).sum(-1)).unsqueeze(-1), v.to(wide))
    else:
        scores = torch.einsum("blrhn,blshn->blhrs", q, k) * gamma[..., None, None]
        y = y + torch.einsum("blhrs,blshp->blrhp", scores, v)
        scores = torch.einsum("blrhn,blshn->blhrs", q, k_before).triu(1) * weights[..., None, None]
        y = y + torch.einsum("blhrs,blshp->blrhp", scores, v_before)
    if not return_final:
        return y, ()
    if not length:
        return y, _unchanged(tokens, biases[0], states, state)
    last = torch.einsum("bh,brhp,brhn->bhpn", gamma[:, -1], v[:, -1].to(wide), k[:, -1])
    return y, (angles[:, -1], state + last, k[:, -1], tokens.v[:, -1].clone())


def _before(x: Tensor, first: Tensor | None) -> Tensor:
    """x (batch, length, ...) one token later: first (batch, ...), zeros if None, takes the place of token 0."""
    start = x.new_zeros(x.shape[0], *x.shape[2:]) if first is None else first.to(x.dtype)
    return torch.cat([start.unsqueeze(1), x[:, :-1]], dim=1)[:, : x.shape[1]]


def _scan_ranks(
    scan: Scan, q: Tensor, k: Tensor, v: Tensor, weights: Tensor, exponents: Tensor, state: Tensor | None, seq_idx: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The scan over length * rank tokens. weights, exponents: (batch, length, nheads), of which the exponent counts once."""
    rank = q.shape[2]
    if rank > 1:
        weights = weights.repeat_interleave(rank, dim=1)
        exponents = F.pad(exponents.unsqueeze(2), (0, 0, 0, rank - 1)).flatten(1, 2)
    y, state = scan(v.flatten(1, 2), weights, exponents, k.flatten(1, 2), q.flatten(1, 2), state, seq_idx)
    return y.unflatten(1, (-1, rank)), state


def _unchanged(
    tokens: _Tokens, bias: Tensor, states: tuple[Tensor | None, ...] | None, state: Tensor
) -> tuple[Tensor, ...]:
    """The states of an empty sequence: those given, or zeros."""
    batch, (rank, nheads, d_state) = state.shape[0], bias.shape
    shapes = ((nheads, tokens.angles.shape[3]), tuple(state.shape[1:]), (rank, nheads, d_state), tuple(tokens.v.shape[2:]))
    dtypes = (state.dtype, state.dtype, state.dtype, tokens.v.dtype)
    given = states or (None,) * 4
    return tuple(
        state.new_zeros(batch, *shape, dtype=dtype) if old is None else old.to(dtype)
        for old, shape, dtype in zip(given, shapes, dtypes)
    )

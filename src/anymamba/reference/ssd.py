"""The Mamba-2 scan, token by token (Mamba-2, section 6 and listing 1; ``ssd_combined.py`` of mamba_ssm).

h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]^T            y[t] = h[t] C[t] + D x[t]            out[t] = y[t] * silu(z[t])
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.reference import supports as supports
from anymamba.reference.arithmetic import working_dtype


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
    """x, z (batch, length, nheads, headdim); dt (batch, length, nheads); A, dt_bias (nheads,); B, C (batch, length, ngroups, d_state),
    head i uses group i // (nheads // ngroups); D (nheads,) or (nheads, headdim); initial_states (batch, nheads, headdim, d_state);
    seq_idx (batch, length). chunk_size changes no result.

    dt becomes clamp(softplus(dt + dt_bias), *dt_limit); it is clamped without softplus too, so a negative dt counts as 0.

    seq_idx: a token whose id differs from the last one starts a document with a state of zero; initial_states belong to the first
    document, whatever its id. A token with seq_idx < 0 is padding, as if it were not there: output 0, the state passes it unchanged.
    (mamba_ssm compares ids at the ends of chunks only, starting from id 0: there initial_states are lost when the first id is
    not 0, and documents that end inside a chunk depend on chunk_size.)

    Returns out (batch, length, nheads, headdim), then as asked
    final_states (batch, nheads, headdim, d_state), in the dtype of the state: after the last token, so of the last document;
    varlen_states (sequences, nheads, headdim, d_state), in state_dtype or the dtype of C, for batch 1: the state that tokens
    cu_seqlens[i] to cu_seqlens[i + 1] leave behind on their own (the sequence that has token 0 starts from initial_states;
    an empty sequence leaves zeros). Neither output depends on whether cu_seqlens is given.
    """
    dtype = working_dtype(x, dt, A, B, C, D, z, dt_bias, initial_states)
    batch, length, nheads, headdim = x.shape
    step = dt.to(dtype)
    if dt_bias is not None:
        step = step + dt_bias.to(dtype)
    if dt_softplus:
        step = F.softplus(step)
    step = step.clamp(*dt_limit)
    B_head, C_head = (M.to(dtype).repeat_interleave(nheads // M.shape[2], dim=2) for M in (B, C))
    zeros = torch.zeros(batch, nheads, headdim, B.shape[3], dtype=dtype, device=x.device)
    start = zeros if initial_states is None else initial_states.to(dtype)
    y, final = _scan(x.to(dtype), step, A.to(dtype), B_head, C_head, start, seq_idx)
    if D is not None:
        y = y + D.to(dtype).view(nheads, -1) * x.to(dtype)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    if seq_idx is not None:
        y = y.masked_fill((seq_idx < 0)[:, :, None, None], 0)
    outputs = [y.to(x.dtype)]
    if return_final_states:
        outputs.append(final)
    if return_varlen_states:
        assert cu_seqlens is not None and batch == 1, "return_varlen_states needs cu_seqlens and a batch of 1"
        varlen = []
        for first, end in zip(cu_seqlens.tolist()[:-1], cu_seqlens.tolist()[1:]):
            tokens = slice(first, end)
            ids = None if seq_idx is None else seq_idx[:, tokens]
            before = start if first == 0 < end else zeros
            alone = (x.to(dtype)[:, tokens], step[:, tokens], A.to(dtype), B_head[:, tokens], C_head[:, tokens])
            varlen.append(_scan(*alone, before, ids)[1])
        states = torch.cat(varlen) if varlen else zeros[:0]
        outputs.append(states.to(state_dtype or C.dtype))
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, seq_idx: Tensor | None
) -> tuple[Tensor, Tensor]:
    """x (batch, length, nheads, headdim), dt (batch, length, nheads), B and C (batch, length, nheads, d_state).
    Returns h C, shaped like x, and the state after the last token."""
    outputs = []
    document = torch.full_like(x[:, 0, 0, 0], -1, dtype=torch.long) if x.shape[1] else None
    for t in range(x.shape[1]):
        before = state
        if seq_idx is not None and document is not None:
            real = seq_idx[:, t] >= 0
            fresh = real & (document >= 0) & (seq_idx[:, t] != document)
            before = before.masked_fill(fresh[:, None, None, None], 0)
            document = torch.where(real, seq_idx[:, t].long(), document)
        decay = torch.exp(dt[:, t] * A)[:, :, None, None]
        after = decay * before + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None, :]
        state = after if seq_idx is None else torch.where(real[:, None, None, None], after, state)
        outputs.append((state * C[:, t, :, None, :]).sum(dim=-1))
    return (torch.stack(outputs, dim=1) if outputs else x.clone()), state  # length 0: empty, and still part of the graph

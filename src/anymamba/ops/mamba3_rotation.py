"""The turning keys and queries of Mamba-3 on their own: running angles over a sequence, and one token of decoding.

Composed of PyTorch operators on every device; inside mamba3_siso and mamba3_mimo a backend may do the same faster.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anymamba.backends.torch.mamba3_rotation import packed_tokens, rotated, running_angles
from anymamba.ops.calls import checks, compiled
from anymamba.ops.mamba3 import packed


def angle_dt_fwd(
    angle: Tensor,
    dt: Tensor,
    init_state: Tensor | None = None,
    chunk_size: int = 64,
    return_output_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """out[t] = out[t-1] + pi tanh(angle[t]) dt[t], between 0 and 2 pi. Source: ``angle_dt_fwd`` of mamba_ssm.

    angle: (batch, length, nheads, num_angles). dt: (batch, nheads, length). init_state: (sequences, nheads, num_angles), before token 0.
    cu_seqlens: (sequences + 1,) integers from 0 to length, batch is 1; the sum restarts at each sequence. All floating; summed in
    float64 where the device has it. chunk_size: without effect.

    Returns out, shaped and typed like angle, or (out, the last of each sequence (sequences, nheads, num_angles)). Differentiable in
    angle, dt and init_state. Raises ArgumentError, ArgumentTypeError.
    """
    op = "angle_dt_fwd"
    checks.tensors(op, {"angle": angle, "dt": dt}, {"init_state": init_state}, {"cu_seqlens": cu_seqlens})
    checks.shape(op, "angle", angle, "(batch, length, nheads, num_angles)", (-1, -1, -1, -1))
    batch, length, nheads, count = angle.shape
    checks.shape(op, "dt", dt, "(batch, nheads, length)", (batch, nheads, length))
    sequences = packed(op, cu_seqlens, batch, length)
    checks.shape(op, "init_state", init_state, "(sequences, nheads, num_angles)", (sequences, nheads, count))
    begins, before = None, None if init_state is None else init_state.unsqueeze(1)
    if cu_seqlens is not None:
        sequence, begins = packed_tokens(cu_seqlens, length)
        before = None if init_state is None else init_state[sequence].unsqueeze(0)
    wide = compiled.state_dtype(angle, dt, init_state)
    out = running_angles(angle, dt.mT, before, begins, wide).to(angle.dtype)
    if not return_output_state:
        return out
    start = angle.new_zeros(sequences, nheads, count) if init_state is None else init_state.to(angle.dtype)
    if cu_seqlens is None:
        return out, out[:, -1].clone() if length else start
    if not length:
        return out, start
    filled = cu_seqlens.diff() > 0
    return out, torch.where(filled[:, None, None], out[0, (cu_seqlens[1:] - 1).clamp(min=0).long()], start)


def apply_rotary_qk_inference_fwd(
    q: Tensor,
    k: Tensor,
    angle_state: Tensor,
    angle_proj: Tensor,
    dt: Tensor,
    bias_q: Tensor | None = None,
    bias_k: Tensor | None = None,
    inplace: bool = False,
    conjugate: bool = False,
    rotate_pairwise: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """q + bias_q and k + bias_k turned by angle = angle_state + pi tanh(angle_proj) dt. Source: ``apply_rotary_qk_inference_fwd`` of
    mamba_ssm.

    q, k: (batch, rank, nheads, d_state), d_state even. angle_state, angle_proj: (batch, nheads, num_angles), num_angles <= d_state / 2.
    dt: (batch, nheads). bias_q, bias_k: (rank, nheads, d_state) or None. All floating, any strides. rotate_pairwise: angle i turns the
    pair (2i, 2i + 1), as in mamba3_siso, else (i, d_state / 2 + i), as in mamba3_mimo. conjugate: turns the other way. inplace: q, k
    and angle_state receive the results.

    Returns q, k and angle (not reduced to one turn), each in the dtype of what it comes from. No gradient passes.
    Raises ArgumentError, ArgumentTypeError.
    """
    op = "apply_rotary_qk_inference_fwd"
    required = {"q": q, "k": k, "angle_state": angle_state, "angle_proj": angle_proj, "dt": dt}
    checks.tensors(op, required, {"bias_q": bias_q, "bias_k": bias_k})
    checks.shape(op, "q", q, "(batch, rank, nheads, d_state)", (-1, -1, -1, -1))
    batch, rank, nheads, d_state = q.shape
    checks.shape(op, "k", k, "(batch, rank, nheads, d_state)", tuple(q.shape))
    checks.value(op, "d_state", d_state, d_state % 2 == 0, "2, 4, 6, ...")
    checks.shape(op, "angle_state", angle_state, "(batch, nheads, num_angles)", (batch, nheads, -1))
    count = angle_state.shape[2]
    checks.value(op, "num_angles", count, count <= d_state // 2, f"<= d_state / 2 = {d_state // 2}")
    checks.shape(op, "angle_proj", angle_proj, "(batch, nheads, num_angles)", (batch, nheads, count))
    checks.shape(op, "dt", dt, "(batch, nheads)", (batch, nheads))
    for name, bias in (("bias_q", bias_q), ("bias_k", bias_k)):
        checks.shape(op, name, bias, "(rank, nheads, d_state)", (rank, nheads, d_state))
    with torch.no_grad():
        wide = compiled.state_dtype(q, k, angle_state, angle_proj, dt, bias_q, bias_k)
        angle = angle_state.to(wide) + math.pi * torch.tanh(angle_proj.to(wide)) * dt.to(wide).unsqueeze(-1)
        turn = (-angle if conjugate else angle).unsqueeze(1)
        zeros = q.new_zeros(rank, nheads, d_state, dtype=wide)
        turned = [
            rotated(x.unsqueeze(1), zeros if bias is None else bias, turn, rotate_pairwise).squeeze(1).to(x.dtype)
            for x, bias in ((q, bias_q), (k, bias_k))
        ]
        angle = angle.to(angle_state.dtype)
        if inplace:
            return q.copy_(turned[0]), k.copy_(turned[1]), angle_state.copy_(angle)
        return turned[0], turned[1], angle

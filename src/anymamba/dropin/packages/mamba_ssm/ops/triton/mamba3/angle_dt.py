"""The running angles of Mamba-3 and their gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba import ops
from anymamba.dropin.counting import counted

angle_dt_fwd = counted(__name__, ops.angle_dt_fwd)


def angle_dt_bwd(
    grad_out: Tensor,
    angle: Tensor,
    dt: Tensor,
    has_init_state: bool = False,
    chunk_size: int = 64,
    grad_output_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of angle_dt_fwd in angle (batch, length, nheads, num_angles), dt (batch, nheads, length) and, with has_init_state, in the
    initial state (sequences, nheads, num_angles) float32. grad_out is shaped like angle, grad_output_state like the state."""
    sequences = angle.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    with torch.enable_grad():
        inputs = [angle.detach().requires_grad_(), dt.detach().requires_grad_()]
        state = None
        if has_init_state:
            # gradients depend on no state
            state = torch.zeros(sequences, *angle.shape[2:], device=angle.device, requires_grad=True)
            inputs.append(state)
        out, last = ops.angle_dt_fwd(inputs[0], inputs[1], state, chunk_size, True, cu_seqlens)
        outputs, cotangents = [out], [grad_out]
        if grad_output_state is not None:
            outputs, cotangents = [out, last], [grad_out, grad_output_state]
        grads = torch.autograd.grad(outputs, inputs, [c.to(o.dtype) for o, c in zip(outputs, cotangents)])
    return grads[0], grads[1], grads[2] if has_init_state else None

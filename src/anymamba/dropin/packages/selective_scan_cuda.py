"""The names of mamba_ssm's compiled module, on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba import ops

__anymamba__ = True
__version__ = "2.3.2.post1+anymamba"


def fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> list[Tensor]:
    """u, delta, z: (batch, dim, length); the rest as in selective_scan_fn. No gradient passes.

    Returns out (without the gate), x (batch, dim, 1, 2 * d_state) whose last_state is x[:, :, -1, 1::2], and with z the gated out.
    One chunk is reported whatever the length: the compiled module keeps one for every 2048 tokens.
    """
    with torch.no_grad():
        out, last_state = ops.selective_scan_fn(u, delta, A, B, C, D, None, delta_bias, delta_softplus, True)
        x = torch.zeros(*last_state.shape[:2], 1, 2 * last_state.shape[2], dtype=last_state.dtype, device=u.device)
        x[:, :, 0, 1::2] = last_state
        if z is None:
            return [out, x]
        return [out, x, ops.selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus)]  # type: ignore[list-item]


def bwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    dout: Tensor,
    x: Tensor | None,
    out: Tensor | None,
    dz: Tensor | None,
    delta_softplus: bool,
    recompute_out_z: bool,
) -> list[Tensor | None]:
    """The gradients of fwd: [du, ddelta, dA, dB, dC, dD, ddelta_bias], with z also dz (filled where it is given), and with
    recompute_out_z the gated out. x and out are not needed: the scan runs once more."""
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    with torch.enable_grad():
        leaves = [None if tensor is None else tensor.detach().requires_grad_() for tensor in tensors]
        u_, delta_, A_, B_, C_, D_, z_, bias_ = leaves
        assert u_ is not None and delta_ is not None and A_ is not None and B_ is not None and C_ is not None
        y = ops.selective_scan_fn(u_, delta_, A_, B_, C_, D_, z_, bias_, delta_softplus)
        assert isinstance(y, Tensor)
        wanted = [leaf for leaf in leaves if leaf is not None]
        grads = iter(torch.autograd.grad(y, wanted, dout))
    gradients = [None if leaf is None else next(grads) for leaf in leaves]
    made_dz = gradients.pop(6)
    results: list[Tensor | None] = list(gradients)
    if z is not None:
        assert made_dz is not None
        results.append(made_dz if dz is None else dz.copy_(made_dz))
        if recompute_out_z:
            results.append(out * F.silu(z) if out is not None else y.detach())
    return results

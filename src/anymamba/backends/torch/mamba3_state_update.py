"""One token of Mamba-3: the state decays once and takes all its new products, those of the last token too, in one matrix product."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.backends.torch import supports as supports
from anymamba.backends.torch.precision import full_precision, wide_dtype


def mamba3_state_update(
    state: Tensor,
    Bstate: Tensor,
    Xstate: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    x: Tensor,
    dt: Tensor,
    trap: Tensor,
    xproj: Tensor,
    outproj: Tensor | None = None,
    z: Tensor | None = None,
    zproj: Tensor | None = None,
) -> Tensor:
    """See anymamba.ops.mamba3_state_update. state: (batch, nheads, headdim, d_state), updated in place."""
    with full_precision(x.device):
        wide = wide_dtype(state, Bstate, Xstate, A, B, C, D, x, dt, trap, xproj, outproj, z, zproj)
        share, step = trap.to(wide), dt.to(wide)
        decay = torch.exp(A.to(wide) * step)
        up = xproj.to(wide)
        now = x.to(wide).unsqueeze(1) * up  # b r h p
        earlier = Xstate.to(wide).unsqueeze(1) * up
        weights = torch.stack([(1 - share) * step * decay, share * step], dim=1)
        values = torch.stack([earlier, now], dim=1) * weights[:, :, None, :, None]  # b 2 r h p
        keys = torch.stack([Bstate.to(wide), B.to(wide)], dim=1)
        increment = torch.matmul(values.flatten(1, 2).permute(0, 2, 3, 1), keys.flatten(1, 2).transpose(1, 2))  # b h p n
        new = torch.addcmul(increment, state.to(wide), decay[..., None, None])
        state.copy_(new)
        out = torch.matmul(new, C.to(wide).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # b r h p
        if D is not None:
            out = torch.addcmul(out, now, D.to(wide)[:, None])
        if z is not None:
            assert zproj is not None
            out = out * F.silu(z.to(wide).unsqueeze(1) * zproj.to(wide))
        if outproj is not None:
            out = (out * outproj.to(wide)).sum(1)
        return out.to(x.dtype).contiguous()

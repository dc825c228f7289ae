"""Keys and queries of one token, biased and turned."""

from __future__ import annotations

from torch import Tensor

from anymamba import ops
from anymamba.dropin.counting import counted

apply_rotary_qk_inference_fwd = counted(__name__, ops.apply_rotary_qk_inference_fwd)


def apply_rotary_qk_inference_reference(
    q: Tensor,
    k: Tensor,
    angle_state: Tensor,
    angle_proj: Tensor,
    dt: Tensor,
    bias_q: Tensor | None = None,
    bias_k: Tensor | None = None,
    conjugate: bool = False,
    rotate_pairwise: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """apply_rotary_qk_inference_fwd; shapes as there."""
    return ops.apply_rotary_qk_inference_fwd(
        q, k, angle_state, angle_proj, dt, bias_q, bias_k, conjugate=conjugate, rotate_pairwise=rotate_pairwise
    )

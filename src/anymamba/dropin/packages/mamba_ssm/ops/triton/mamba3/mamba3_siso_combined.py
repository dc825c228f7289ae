"""The Mamba-3 recurrence over a sequence, one value a head and token."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from anymamba import ops
from anymamba.dropin.counting import counted

mamba3_siso_combined = counted(__name__, ops.mamba3_siso_combined)


@dataclass(frozen=True)
class Mamba3Output:
    """What mamba3_siso_combined returns, by name; it returns a tuple."""

    out: Tensor
    final_angle_state: Tensor | None = None
    final_ssm_state: Tensor | None = None
    final_k_state: Tensor | None = None
    final_v_state: Tensor | None = None

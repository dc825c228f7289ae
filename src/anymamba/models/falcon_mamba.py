"""FalconMamba (Zuo et al. 2024): Mamba-1 with RMS norms, without weights, on B, C and the low-rank dt.

Parameters are named like those of transformers' FalconMambaForCausalLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from anymamba.models.mamba import MambaConfig, MambaMixer
from anymamba.ops.projection import linear


@dataclass
class FalconMambaConfig(MambaConfig):
    mixer_rms_eps: float = 1e-6

    model_type: ClassVar[str] = "falcon_mamba"
    architecture: ClassVar[str] = "FalconMambaForCausalLM"


class FalconMambaMixer(MambaMixer):
    config: FalconMambaConfig

    # mamba_inner_fn would norm dt after its projection to d_inner; the published model norms it before
    fused = False

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See MambaMixer.project."""
        n, eps = self.config.state_size, self.config.mixer_rms_eps
        parts = self.x_proj(x.transpose(1, 2)).split([int(self.config.time_step_rank), n, n], dim=-1)
        low_rank, B, C = (_rms_norm(part, eps) for part in parts)
        dt = linear(low_rank, self.dt_proj.weight)
        return dt.transpose(1, 2), B.transpose(1, 2), C.transpose(1, 2)


def _rms_norm(x: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype)

"""FalconMamba (Zuo et al. 2024): Mamba-1 with RMS norms, without weights, on B, C and the low-rank dt.

Parameters are named like those of transformers' FalconMambaForCausalLM.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from anymamba.models.family import Family, LayerKind, alike
from anymamba.models.mamba import FAMILY as MAMBA
from anymamba.models.mamba import LINEAR_LAYERS, MambaConfig, MambaMixer, fused_step
from anymamba.models.plain import plain_class
from anymamba.models.trunk.fused_step import ByChannel
from anymamba.models.trunk.submodule import call


@dataclass
class FalconMambaConfig(MambaConfig):
    mixer_rms_eps: float = 1e-6

    model_type: ClassVar[str] = "falcon_mamba"
    architecture: ClassVar[str] = "FalconMambaForCausalLM"


@plain_class
class FalconMambaMixer(MambaMixer):
    config: FalconMambaConfig

    # mamba_inner_fn would norm dt after its projection to d_inner; the published model norms it before
    fused = False

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """See MambaMixer.project."""
        rank, n, eps = int(self.config.time_step_rank), self.config.state_size, self.config.mixer_rms_eps
        parts = call(self, "x_proj", x.transpose(1, 2), rank + 2 * n).split([rank, n, n], dim=-1)
        low_rank, B, C = (_rms_norm(part, eps) for part in parts)
        dt, bias = self.delta(low_rank)
        return dt, B.transpose(1, 2), C.transpose(1, 2), bias


def _rms_norm(x: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype)


def _fused_step(config: FalconMambaConfig) -> ByChannel:
    return dataclasses.replace(fused_step(config), norm_eps=config.mixer_rms_eps)


FAMILY = Family(
    FalconMambaConfig,
    alike(LayerKind(FalconMambaMixer, LINEAR_LAYERS, fused_step=_fused_step)),
    MAMBA.sizes,
    vocabulary_multiple=8,
)

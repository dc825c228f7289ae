"""Falcon-H1 (Zuo et al. 2025): in every block Mamba-2 and attention side by side, then a gated MLP; fixed multipliers throughout.

Parameters are named like those of transformers' FalconH1ForCausalLM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymamba.models.bamba import SPLIT_MLP
from anymamba.models.config import Multipliers
from anymamba.models.family import Family, LayerKind, LinearLayer, alike
from anymamba.models.granitemoehybrid import mamba2_part
from anymamba.models.hybrid import MAMBA2_KEYS, HybridConfig, HybridMamba2, Mamba2Part
from anymamba.models.mamba2 import GatedRMSNorm, Mamba2Config
from anymamba.models.plain import obstacle, plain_class
from anymamba.models.trunk.attention import Attention, AttentionSizes
from anymamba.models.trunk.documents import Documents
from anymamba.models.trunk.mixer import Mixer
from anymamba.models.trunk.mlp import SplitMLP
from anymamba.models.trunk.parts import Parts


@dataclass
class FalconH1Config(HybridConfig):
    """mamba_d_ssm: channels of the Mamba-2 mixer; None: mamba_expand * hidden_size. ssm_multipliers: of z, x, B, C and dt; mlp_multipliers:
    of the gate and of what comes out."""

    vocab_size: int = 128000
    hidden_size: int = 4096
    state_size: int = 256
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False
    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 8192
    mamba_d_ssm: int | None = 1024
    num_heads: int = 128
    n_groups: int = 1
    head_dim: int | str = "auto"
    chunk_size: int = 256
    time_step_limit: tuple[float, float] = (0.0, math.inf)
    mamba_norm_before_gate: bool = True
    mamba_rms_norm: bool = False
    projectors_bias: bool = False
    lm_head_multiplier: float = 1.0
    embedding_multiplier: float = 1.0
    mlp_multipliers: list[float] | None = None
    key_multiplier: float = 1.0
    attention_out_multiplier: float = 1.0
    attention_in_multiplier: float = 1.0
    ssm_multipliers: list[float] | None = None
    ssm_in_multiplier: float = 1.0
    ssm_out_multiplier: float = 1.0
    attention_bias: bool = False
    mlp_bias: bool = False

    model_type: ClassVar[str] = "falcon_h1"
    architecture: ClassVar[str] = "FalconH1ForCausalLM"
    keys: ClassVar[dict[str, str]] = MAMBA2_KEYS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_dim == "auto":
            self.head_dim = (self.mamba_d_ssm or self.d_inner) // self.num_heads
        self.mlp_multipliers = self.mlp_multipliers or [1.0, 1.0]
        self.ssm_multipliers = self.ssm_multipliers or [1.0] * 5
        self.mamba2_part()
        self.rotary(self.headdim)

    @property
    def multipliers(self) -> Multipliers:
        return Multipliers(self.embedding_multiplier, 1.0, self.lm_head_multiplier)

    def mamba2_part(self) -> Mamba2Part:
        return mamba2_part(self, (self.mamba_d_ssm or self.d_inner))


@plain_class
class Gate(nn.Module):
    """y * silu(z), where there is no norm."""

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        return y * F.silu(z)


@plain_class
class FalconH1Mamba2(HybridMamba2):
    """Its projections are scaled, and it may have no norm behind it."""

    def __init__(self, config: FalconH1Config) -> None:
        self.whole = config
        super().__init__(config)
        if config.projectors_bias != config.use_bias:
            self.out_proj = type(self.out_proj)(self.config.d_inner, config.hidden_size, bias=config.projectors_bias)
        self._scales: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def make_norm(self, config: Mamba2Config) -> nn.Module:
        """See Mamba2Mixer.make_norm."""
        if not self.whole.mamba_rms_norm:
            return Gate()
        return GatedRMSNorm(config.d_inner, config.n_groups, config.layer_norm_epsilon, self.whole.mamba_norm_before_gate)

    def norm_in_scan(self) -> dict[str, Any] | None:
        """See Mamba2Mixer.norm_in_scan."""
        if type(self.norm) is Gate and not obstacle(self.norm):
            return {"rmsnorm_weight": None, "norm_before_gate": False}
        return super().norm_in_scan()

    def project(self, hidden: Tensor) -> Tensor:
        """See Mamba2Mixer.project."""
        if self.whole.ssm_in_multiplier != 1.0:
            hidden = hidden * self.whole.ssm_in_multiplier
        return super().project(hidden) * self._scale(hidden)

    def _scale(self, like: Tensor) -> Tensor:
        """Of the channels of in_proj's result, (2 * d_inner + 2 * n_groups * d_state + nheads,)."""
        key = like.device, like.dtype
        if key not in self._scales:
            config, whole = self.config, self.whole
            grouped = config.n_groups * config.state_size
            sizes = config.d_inner, config.d_inner, grouped, grouped, config.num_heads
            with torch.inference_mode(False):
                values = [factor for factor, size in zip(whole.ssm_multipliers or [], sizes) for __ in range(size)]
                self._scales[key] = torch.tensor(values, dtype=like.dtype, device=like.device)
        return self._scales[key]


@plain_class
class FalconH1Attention(Attention):
    @classmethod
    def sizes_of(cls, config: FalconH1Config) -> AttentionSizes:
        size, heads, headdim = config.hidden_size, config.num_attention_heads, config.headdim
        return AttentionSizes(
            size, size, heads, config.num_key_value_heads or heads, headdim, headdim**-0.5, config.attention_bias,
            config.key_multiplier, config.rotary(headdim),
        )  # fmt: skip


@plain_class
class SideBySide(Mixer[Parts]):
    """The sum of the two mixers of one norm."""

    def __init__(self, config: FalconH1Config) -> None:
        super().__init__()
        self.config = config
        self.mamba = FalconH1Mamba2(config)
        self.self_attn = FalconH1Attention(config)

    def init_parameters(self) -> None:
        """See Mixer.init_parameters."""
        self.mamba.init_parameters()

    @classmethod
    def make_state(cls, config: FalconH1Config, batch: int, device: torch.device | str, dtype: torch.dtype) -> Parts:
        """See Mixer.make_state."""
        kinds: dict[str, type[Mixer[Any]]] = {"mamba": FalconH1Mamba2, "self_attn": FalconH1Attention}
        return Parts({name: kind.make_state(config, batch, device, dtype) for name, kind in kinds.items()})

    def forward(
        self, hidden: Tensor, mask: Tensor | None = None, documents: Documents | None = None, state: Parts | None = None
    ) -> Tensor:
        """See Mixer.forward."""
        config = self.config
        y = _mixed(self.mamba, hidden, mask, documents, state, "mamba") * config.ssm_out_multiplier
        x = _mixed(self.self_attn, hidden * config.attention_in_multiplier, mask, documents, state, "self_attn")
        return y + x * config.attention_out_multiplier


def _mixed(
    mixer: nn.Module, hidden: Tensor, mask: Tensor | None, documents: Documents | None, state: Parts | None, name: str
) -> Tensor:
    y: Tensor = mixer(hidden, mask=mask, documents=documents, state=None if state is None else state.part(name))
    return y


def _mlp(config: FalconH1Config) -> SplitMLP:
    gate, down = config.mlp_multipliers or (1.0, 1.0)
    return SplitMLP(config.hidden_size, config.intermediate_size, config.mlp_bias, gate, down)


BLOCK = LayerKind(
    SideBySide,
    (
        LinearLayer("mixer.mamba.in_proj"), LinearLayer("mixer.mamba.out_proj", lora=False, residual=True),
        *(LinearLayer(f"mixer.self_attn.{name}_proj", residual=name == "o") for name in "qkvo"), *SPLIT_MLP,
    ),
    mlp=_mlp,
    names=(
        ("mamba.", "mixer.mamba."), ("self_attn.", "mixer.self_attn."), ("feed_forward.", "mlp."), ("input_layernorm.", "norm."),
        ("pre_ff_layernorm.", "norm2."),
    ),
)  # fmt: skip

FAMILY = Family(
    FalconH1Config,
    alike(BLOCK),
    {
        "tiny": {
            "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 512,
            "mamba_d_ssm": 384, "num_heads": 6, "state_size": 64,
        },
    },
    names=(
        ("model.layers.", "backbone.layers."), ("model.embed_tokens.", "backbone.embeddings."),
        ("model.final_layernorm.", "backbone.norm_f."),
    ),
)  # fmt: skip

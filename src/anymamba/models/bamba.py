"""Bamba (IBM, Princeton, CMU and UIUC 2024): Mamba-2 layers with a few attention layers between them, a gated MLP behind each.

Parameters are named like those of transformers' BambaForCausalLM.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from anymamba.errors import ArgumentError
from anymamba.language import _
from anymamba.models.family import Family, LayerKind, LinearLayer
from anymamba.models.granitemoehybrid import mamba2_part
from anymamba.models.hybrid import ATTENTION_LAYERS, MAMBA2_KEYS, MAMBA2_LAYERS, HybridConfig, HybridMamba2, Mamba2Part
from anymamba.models.plain import plain_class
from anymamba.models.trunk.attention import Attention, AttentionSizes
from anymamba.models.trunk.mlp import SplitMLP


@dataclass
class BambaConfig(HybridConfig):
    """attn_layer_indices: which layers are attention; all others are Mamba-2."""

    vocab_size: int = 128000
    hidden_size: int = 4096
    state_size: int = 256
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False
    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 262144
    attn_layer_indices: list[int] | None = None
    num_heads: int = 128
    n_groups: int = 1
    head_dim: int | str = "auto"
    chunk_size: int = 256
    time_step_limit: tuple[float, float] = (0.0, math.inf)
    attention_bias: bool = False
    mlp_bias: bool = False

    model_type: ClassVar[str] = "bamba"
    architecture: ClassVar[str] = "BambaForCausalLM"
    keys: ClassVar[dict[str, str]] = MAMBA2_KEYS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_dim == "auto":
            self.head_dim = self.d_inner // self.num_heads
        for index in self.attn_layer_indices or ():
            if not 0 <= index < self.num_hidden_layers:
                raise ArgumentError(
                    "config",
                    _("attn_layer_indices has layer {index}, but num_hidden_layers is {layers}").format(
                        index=index, layers=self.num_hidden_layers
                    ),
                )
        self.mamba2_part()
        self.rotary(self.headdim, 0.5)

    def mamba2_part(self) -> Mamba2Part:
        return mamba2_part(self)


@plain_class
class BambaAttention(Attention):
    @classmethod
    def sizes_of(cls, config: BambaConfig) -> AttentionSizes:
        size, heads = config.hidden_size, config.num_attention_heads
        headdim = config.headdim
        return AttentionSizes(
            size, size, heads, config.num_key_value_heads or heads, headdim, headdim**-0.5, config.attention_bias,
            rotary=config.rotary(headdim, 0.5),
        )  # fmt: skip


def _mlp(config: BambaConfig) -> SplitMLP:
    return SplitMLP(config.hidden_size, config.intermediate_size, config.mlp_bias)


SPLIT_MLP = (
    LinearLayer("mlp.gate_proj"), LinearLayer("mlp.up_proj"), LinearLayer("mlp.down_proj", residual=True),
)  # fmt: skip
_NAMES = ("feed_forward.", "mlp."), ("input_layernorm.", "norm."), ("pre_ff_layernorm.", "norm2.")
MAMBA = LayerKind(HybridMamba2, (*MAMBA2_LAYERS, *SPLIT_MLP), mlp=_mlp, names=(("mamba.", "mixer."), *_NAMES))
ATTENTION = LayerKind(BambaAttention, (*ATTENTION_LAYERS, *SPLIT_MLP), mlp=_mlp, names=(("self_attn.", "mixer."), *_NAMES))


def _layers(config: BambaConfig) -> Sequence[LayerKind[BambaConfig]]:
    places = set(config.attn_layer_indices or ())
    return [ATTENTION if index in places else MAMBA for index in range(config.num_hidden_layers)]


FAMILY = Family(
    BambaConfig,
    _layers,
    {
        "tiny": {
            "hidden_size": 256, "num_hidden_layers": 6, "attn_layer_indices": [2, 5], "num_attention_heads": 4, "num_key_value_heads": 2,
            "intermediate_size": 512, "num_heads": 8, "state_size": 64,
        },
    },
    names=(
        ("model.layers.", "backbone.layers."), ("model.embed_tokens.", "backbone.embeddings."),
        ("model.final_layernorm.", "backbone.norm_f."),
    ),
)  # fmt: skip

"""Granite 4.0-H (IBM 2025): Mamba-2 and attention layers, each with an MLP or a mixture of experts behind it, and fixed multipliers.

Parameters are named like those of transformers' GraniteMoeHybridForCausalLM.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from anymamba.errors import ArgumentError
from anymamba.language import _
from anymamba.models.config import Multipliers
from anymamba.models.family import Family, LayerKind, LinearLayer
from anymamba.models.hybrid import ATTENTION_LAYERS, MAMBA2_KEYS, MAMBA2_LAYERS, HybridConfig, HybridMamba2, Mamba2Part
from anymamba.models.plain import plain_class
from anymamba.models.trunk.activation import activation
from anymamba.models.trunk.attention import Attention, AttentionSizes
from anymamba.models.trunk.experts import Experts, Router
from anymamba.models.trunk.mlp import GateFirstMLP


@dataclass
class GraniteMoeHybridConfig(HybridConfig):
    """intermediate_size: width of an expert, of which there are num_local_experts (0: none); shared_intermediate_size: of the MLP through
    which every token goes. logits_scaling: the logits are divided by it."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    state_size: int = 256
    layer_norm_epsilon: float = 1e-6
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False
    intermediate_size: int = 11008
    max_position_embeddings: int = 2048
    attention_bias: bool = False
    embedding_multiplier: float = 1.0
    logits_scaling: float = 1.0
    residual_multiplier: float = 1.0
    attention_multiplier: float = 1.0
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    shared_intermediate_size: int = 1024
    position_embedding_type: str | None = None
    layer_types: list[str] | None = None
    num_heads: int = 128
    n_groups: int = 1
    head_dim: int | str = "auto"
    chunk_size: int = 256
    time_step_limit: tuple[float, float] = (0.0, math.inf)

    model_type: ClassVar[str] = "granitemoehybrid"
    architecture: ClassVar[str] = "GraniteMoeHybridForCausalLM"
    keys: ClassVar[dict[str, str]] = MAMBA2_KEYS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_dim == "auto":
            self.head_dim = self.d_inner // self.num_heads
        if self.layer_types is None:
            self.layer_types = ["mamba"] * self.num_hidden_layers
        if self.position_embedding_type not in (None, "nope", "rope"):
            raise ArgumentError(
                "config",
                _("position_embedding_type {kind!r} is not known").format(kind=self.position_embedding_type),
                fix=_("known: ") + "rope, nope",
            )
        if self.position_embedding_type == "rope":
            self.rotary(self.headdim)
        self.kinds: list[str] = self.check_kinds("layer_types", self.layer_types, ["mamba", "attention"])
        self.mamba2_part()

    @property
    def multipliers(self) -> Multipliers:
        return Multipliers(self.embedding_multiplier, self.residual_multiplier, 1 / self.logits_scaling)

    @property
    def context(self) -> int | None:
        return self.max_position_embeddings if "attention" in self.kinds else None

    def mamba2_part(self) -> Mamba2Part:
        return mamba2_part(self)


def mamba2_part(config: Any, width: int | None = None, limit: tuple[float, float] | None = None) -> Mamba2Part:
    """Of a configuration with Granite's fields. width: channels of all its heads; None: expand * hidden_size. limit: of dt, where the
    configuration has none."""
    heads, headdim, width = config.num_heads, int(config.head_dim), width or config.d_inner
    if limit is None and heads * headdim != width:
        raise ArgumentError(
            "config",
            _("{heads_key} * {headdim_key} is {heads} * {headdim}, the Mamba layers have {width} channels: they must be equal").format(
                heads_key=config.keys["num_heads"], headdim_key=config.keys["head_dim"], heads=heads, headdim=headdim, width=width
            ),
        )
    if limit is None:
        limit = config.time_step_limit = tuple(map(float, config.time_step_limit or (0.0, math.inf)))
    return Mamba2Part(
        vocab_size=config.vocab_size, hidden_size=config.hidden_size, state_size=config.state_size, expand=config.expand,
        num_hidden_layers=config.num_hidden_layers, layer_norm_epsilon=config.layer_norm_epsilon, conv_kernel=config.conv_kernel,
        use_bias=config.use_bias, use_conv_bias=config.use_conv_bias, num_heads=heads, head_dim=headdim, n_groups=config.n_groups,
        time_step_limit=limit, chunk_size=config.chunk_size,
    )  # fmt: skip


@plain_class
class GraniteAttention(Attention):
    @classmethod
    def sizes_of(cls, config: GraniteMoeHybridConfig) -> AttentionSizes:
        size, heads = config.hidden_size, config.num_attention_heads
        rotary = config.rotary(config.headdim) if config.position_embedding_type == "rope" else None
        kv_heads = config.num_key_value_heads or heads
        return AttentionSizes(
            size, size, heads, kv_heads, config.headdim, config.attention_multiplier, config.attention_bias, rotary=rotary
        )


@plain_class
class GraniteFeedForward(nn.Module):
    """The sum of an MLP for all tokens and, where there are experts, of the experts that a token chooses."""

    def __init__(self, config: GraniteMoeHybridConfig) -> None:
        super().__init__()
        size, std = config.hidden_size, config.initializer_range
        self.shared = GateFirstMLP(size, config.shared_intermediate_size)
        self.count = config.num_experts_per_tok
        self.router: Router | None = None
        if config.num_local_experts:
            self.router = Router(config.num_local_experts, size, std)
            act = activation(config.hidden_act, "hidden_act")
            self.experts = Experts(config.num_local_experts, size, config.intermediate_size, act, True, std)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shared(x)
        if self.router is None:
            return y
        flat = x.flatten(0, -2)
        scores, chosen = self.router(flat).topk(self.count, dim=-1)
        routed: Tensor = self.experts(flat, chosen, scores.softmax(-1))
        return y + routed.view_as(y)


_FEED_FORWARD = LinearLayer("mlp.shared.input_linear"), LinearLayer("mlp.shared.output_linear", residual=True)
_NAMES = (
    ("input_layernorm.", "norm."), ("post_attention_layernorm.", "norm2."), ("shared_mlp.", "mlp.shared."),
    ("block_sparse_moe.input_linear.weight", "mlp.experts.up"), ("block_sparse_moe.output_linear.weight", "mlp.experts.down"),
    ("block_sparse_moe.router.layer.weight", "mlp.router.weight"),
)  # fmt: skip
MAMBA = LayerKind(
    HybridMamba2, (*MAMBA2_LAYERS, *_FEED_FORWARD), mlp=GraniteFeedForward, names=(("mamba.", "mixer."), *_NAMES)
)
ATTENTION = LayerKind(
    GraniteAttention, (*ATTENTION_LAYERS, *_FEED_FORWARD), mlp=GraniteFeedForward, names=(("self_attn.", "mixer."), *_NAMES)
)


def _layers(config: GraniteMoeHybridConfig) -> Sequence[LayerKind[GraniteMoeHybridConfig]]:
    return [ATTENTION if kind == "attention" else MAMBA for kind in config.kinds]


FAMILY = Family(
    GraniteMoeHybridConfig,
    _layers,
    {
        "tiny": {
            "hidden_size": 256, "num_hidden_layers": 6, "layer_types": ["mamba", "mamba", "attention"] * 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_local_experts": 0, "shared_intermediate_size": 512, "num_heads": 16, "state_size": 64,
            "attention_multiplier": 0.125, "tie_word_embeddings": True, "position_embedding_type": "nope",
        },
    },
    names=(("model.layers.", "backbone.layers."), ("model.embed_tokens.", "backbone.embeddings."), ("model.norm.", "backbone.norm_f.")),
)  # fmt: skip

"""Jamba (AI21 2024): Mamba-1 layers with norms on dt, B and C, some attention layers, MLPs and mixtures of experts in turn.

Parameters are named like those of transformers' JambaForCausalLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from anymamba.errors import ArgumentError
from anymamba.language import _
from anymamba.models.bamba import SPLIT_MLP
from anymamba.models.family import Family, LayerKind, LinearLayer, Stack
from anymamba.models.hybrid import ATTENTION_LAYERS, HybridConfig
from anymamba.models.mamba import MambaConfig, MambaMixer
from anymamba.models.plain import plain_class
from anymamba.models.trunk.activation import activation
from anymamba.models.trunk.attention import Attention, AttentionSizes
from anymamba.models.trunk.experts import Experts, Router
from anymamba.models.trunk.mlp import SplitMLP
from anymamba.models.trunk.norm import ChannelNorm
from anymamba.models.trunk.state import LayerState
from anymamba.models.trunk.submodule import call


@dataclass
class JambaConfig(HybridConfig):
    """Every attn_layer_period-th layer from attn_layer_offset on is attention, every expert_layer_period-th from expert_layer_offset on has
    num_experts experts in place of an MLP."""

    vocab_size: int = 65536
    hidden_size: int = 4096
    layer_norm_epsilon: float = 1e-6
    time_step_rank: int | str = "auto"
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False
    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 262144
    num_experts_per_tok: int = 2
    num_experts: int = 16
    expert_layer_period: int = 2
    expert_layer_offset: int = 1
    attn_layer_period: int = 8
    attn_layer_offset: int = 4

    model_type: ClassVar[str] = "jamba"
    architecture: ClassVar[str] = "JambaForCausalLM"
    keys: ClassVar[dict[str, str]] = {
        **HybridConfig.keys, "state_size": "mamba_d_state", "layer_norm_epsilon": "rms_norm_eps", "expand": "mamba_expand",
        "conv_kernel": "mamba_d_conv", "use_bias": "mamba_proj_bias", "use_conv_bias": "mamba_conv_bias", "time_step_rank": "mamba_dt_rank",
    }  # fmt: skip
    unwritten: ClassVar[frozenset[str]] = HybridConfig.unwritten - {"time_step_rank"}

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in ("attn", "expert"):
            period, offset = getattr(self, f"{kind}_layer_period"), getattr(self, f"{kind}_layer_offset")
            if not 0 <= offset < period:
                raise ArgumentError(
                    "config",
                    _("{kind}_layer_offset is {offset}: it must be below {kind}_layer_period, {period}").format(
                        kind=kind, offset=offset, period=period
                    ),
                )

    def mamba_part(self) -> MambaConfig:
        return MambaConfig(
            vocab_size=self.vocab_size, hidden_size=self.hidden_size, state_size=self.state_size, expand=self.expand,
            conv_kernel=self.conv_kernel, use_bias=self.use_bias, use_conv_bias=self.use_conv_bias, time_step_rank=self.time_step_rank,
            layer_norm_epsilon=self.layer_norm_epsilon, num_hidden_layers=self.num_hidden_layers,
        )  # fmt: skip


@plain_class
class JambaMamba(MambaMixer):
    """Mamba-1 with norms, which have weights, on the low-rank dt, B and C."""

    fused = False

    def __init__(self, config: JambaConfig) -> None:
        part = config.mamba_part()
        super().__init__(part)
        rank, eps = int(part.time_step_rank), part.layer_norm_epsilon
        self.dt_layernorm = ChannelNorm(rank, eps)
        self.b_layernorm, self.c_layernorm = (ChannelNorm(part.state_size, eps) for __ in "bc")

    @classmethod
    def make_state(cls, config: Any, batch: int, device: torch.device | str, dtype: torch.dtype) -> LayerState:
        """See Mixer.make_state."""
        return super().make_state(config.mamba_part(), batch, device, dtype)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """See MambaMixer.project."""
        rank, n = int(self.config.time_step_rank), self.config.state_size
        low_rank, B, C = call(self, "x_proj", x.transpose(1, 2), rank + 2 * n).split([rank, n, n], dim=-1)
        dt, bias = self.delta(call(self, "dt_layernorm", low_rank, rank))
        return dt, call(self, "b_layernorm", B, n).transpose(1, 2), call(self, "c_layernorm", C, n).transpose(1, 2), bias


@plain_class
class JambaAttention(Attention):
    @classmethod
    def sizes_of(cls, config: JambaConfig) -> AttentionSizes:
        size, heads, headdim = config.hidden_size, config.num_attention_heads, config.headdim
        return AttentionSizes(size, size, heads, config.num_key_value_heads or heads, headdim, headdim**-0.5)


@plain_class
class JambaExperts(nn.Module):
    """The experts that a token chooses, weighted by their probabilities among all."""

    def __init__(self, config: JambaConfig) -> None:
        super().__init__()
        size, std = config.hidden_size, config.initializer_range
        self.count = config.num_experts_per_tok
        self.router = Router(config.num_experts, size, std)
        act = activation(config.hidden_act, "hidden_act")
        self.experts = Experts(config.num_experts, size, config.intermediate_size, act, True, std)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        weights, chosen = self.router(flat).softmax(-1).topk(self.count, dim=-1)
        y: Tensor = self.experts(flat, chosen, weights)
        return y.view_as(x)


def _mlp(config: JambaConfig) -> SplitMLP:
    return SplitMLP(config.hidden_size, config.intermediate_size)


_MAMBA = (
    LinearLayer("mixer.in_proj"), LinearLayer("mixer.x_proj"), LinearLayer("mixer.dt_proj", quantize=False),
    LinearLayer("mixer.out_proj", lora=False, residual=True),
)  # fmt: skip
_NAMES = ("feed_forward.", "mlp."), ("input_layernorm.", "norm."), ("pre_ff_layernorm.", "norm2.")
_STACKS = (
    Stack("mlp.experts.up", "feed_forward.experts.{}.gate_proj.weight", 0, 2),
    Stack("mlp.experts.up", "feed_forward.experts.{}.up_proj.weight", 1, 2),
    Stack("mlp.experts.down", "feed_forward.experts.{}.down_proj.weight"),
)
_KINDS: dict[tuple[bool, bool], LayerKind[JambaConfig]] = {
    (attention, experts): LayerKind(
        JambaAttention if attention else JambaMamba,
        (*(ATTENTION_LAYERS if attention else _MAMBA), *(() if experts else SPLIT_MLP)),
        mlp=JambaExperts if experts else _mlp,
        names=(("self_attn." if attention else "mamba.", "mixer."), *_NAMES),
        stacks=_STACKS if experts else (),
    )
    for attention in (False, True)
    for experts in (False, True)
}
"""(whether it is attention, whether it has experts) -> kind"""


def _layers(config: JambaConfig) -> Sequence[LayerKind[JambaConfig]]:
    return [
        _KINDS[
            index % config.attn_layer_period == config.attn_layer_offset,
            config.num_experts > 1 and index % config.expert_layer_period == config.expert_layer_offset,
        ]
        for index in range(config.num_hidden_layers)
    ]


FAMILY = Family(
    JambaConfig,
    _layers,
    {
        "tiny": {
            "hidden_size": 256, "num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 512, "num_experts": 4,
        },
    },
    names=(
        ("model.layers.", "backbone.layers."), ("model.embed_tokens.", "backbone.embeddings."),
        ("model.final_layernorm.", "backbone.norm_f."),
    ),
)  # fmt: skip

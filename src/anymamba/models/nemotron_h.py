"""Nemotron-H and Nemotron 3 (NVIDIA 2025): by pattern Mamba-2, attention without positions, MLP and mixture of experts, each with a norm.

Parameters are named like those of transformers' NemotronHForCausalLM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from anymamba.errors import ArgumentError
from anymamba.language import _
from anymamba.models.family import Family, LayerKind, LinearLayer, Stack
from anymamba.models.granitemoehybrid import mamba2_part
from anymamba.models.hybrid import ATTENTION_LAYERS, MAMBA2_LAYERS, HybridConfig, HybridMamba2, Mamba2Part
from anymamba.models.plain import plain_class
from anymamba.models.trunk.activation import activation
from anymamba.models.trunk.attention import Attention, AttentionSizes
from anymamba.models.trunk.documents import Documents
from anymamba.models.trunk.experts import Experts
from anymamba.models.trunk.linear import Linear
from anymamba.models.trunk.mixer import Mixer
from anymamba.models.trunk.mlp import PlainMLP
from anymamba.models.trunk.parts import Nothing
from anymamba.models.trunk.submodule import call

PATTERN = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
"""Letters of ``hybrid_override_pattern``."""

_OLDER = {
    "mamba_n_groups": "n_groups", "mamba_d_conv": "conv_kernel", "mamba_expand": "expand", "mamba_dt_min": "time_step_min",
    "mamba_dt_max": "time_step_max", "mamba_dt_limit": "time_step_limit", "mamba_dt_init_floor": "time_step_floor",
    "mamba_conv_bias": "use_conv_bias", "mamba_chunk_size": "chunk_size", "rms_norm_eps": "layer_norm_epsilon",
    "layers_block_type": "layer_types", "num_local_experts": "n_routed_experts",
}  # fmt: skip


@dataclass
class NemotronHConfig(HybridConfig):
    """layer_types: kind of every layer. moe_latent_size: width in which the experts work; None: hidden_size. n_group, topk_group: experts
    lie in n_group groups, of which a token uses topk_group."""

    vocab_size: int = 131072
    hidden_size: int = 4096
    state_size: int = 128
    num_hidden_layers: int = 4
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False
    residual_in_fp32: bool = False
    num_key_value_heads: int | None = 8
    attention_head_dim: int | None = 128
    layer_types: list[str] | None = None
    intermediate_size: int = 21504
    mlp_hidden_act: str = "relu2"
    mlp_bias: bool = False
    num_heads: int = 128
    head_dim: int = 64
    n_groups: int = 8
    chunk_size: int = 128
    n_routed_experts: int = 8
    moe_intermediate_size: int = 7688
    moe_shared_expert_intermediate_size: int = 7688
    moe_latent_size: int | None = None
    num_experts_per_tok: int = 2
    routed_scaling_factor: float = 1.0
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True

    model_type: ClassVar[str] = "nemotron_h"
    architecture: ClassVar[str] = "NemotronHForCausalLM"
    keys: ClassVar[dict[str, str]] = {
        **HybridConfig.keys, "state_size": "ssm_state_size", "num_heads": "mamba_num_heads", "head_dim": "mamba_head_dim",
        "layer_types": "layers_block_type", "hidden_act": "mamba_hidden_act",
    }  # fmt: skip
    unwritten: ClassVar[frozenset[str]] = HybridConfig.unwritten - {
        "residual_in_fp32", "rescale_prenorm_residual", "time_step_min", "time_step_max", "time_step_floor"
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer_types is None:
            self.layer_types = ["linear_attention", "moe", "full_attention", "mlp"]
        self.kinds: list[str] = self.check_kinds("layers_block_type", self.layer_types, list(PATTERN.values()))
        self.mamba2_part()

    @property
    def context(self) -> int | None:
        return self.max_position_embeddings if "attention" in self.kinds else None

    def mamba2_part(self) -> Mamba2Part:
        """As transformers has it: dt is at least time_step_min."""
        return mamba2_part(self, limit=(self.time_step_min, math.inf))

    def to_dict(self) -> dict[str, Any]:
        """See Config.to_dict. Fresh parameters alone are rescaled, but transformers does it to loaded ones too."""
        return {**super().to_dict(), "rescale_prenorm_residual": False}

    @classmethod
    def modern(cls, values: dict[str, Any]) -> dict[str, Any]:
        """See HybridConfig.modern. Raises ArgumentError for a letter of the pattern that is not known."""
        values = {_OLDER.get(key, key): value for key, value in super().modern(values).items()}
        pattern = values.pop("hybrid_override_pattern", None)
        if pattern is not None and values.get("layer_types") is None:
            for place, letter in enumerate(pattern):
                if letter not in PATTERN:
                    raise ArgumentError(
                        "config",
                        _("hybrid_override_pattern: layer {index} is {letter!r}, which is not known").format(
                            index=place, letter=letter
                        ),
                        fix=_("known: ") + ", ".join(f"{key} ({kind})" for key, kind in PATTERN.items()),
                    )
            values["layer_types"] = [PATTERN[letter] for letter in pattern]
        kinds = values.pop("layer_types", None)
        if kinds is not None:
            values.setdefault("num_hidden_layers", len(kinds))
            values["layers_block_type"] = kinds
        return values


@plain_class
class NemotronHAttention(Attention):
    @classmethod
    def sizes_of(cls, config: NemotronHConfig) -> AttentionSizes:
        size, heads, headdim = config.hidden_size, config.num_attention_heads, config.headdim
        return AttentionSizes(size, size, heads, config.num_key_value_heads or heads, headdim, headdim**-0.5)


class Forgetful(Mixer[Nothing]):
    """A layer that looks at one token at a time."""

    def init_parameters(self) -> None:
        """torch's own values do."""

    @classmethod
    def make_state(cls, config: NemotronHConfig, batch: int, device: torch.device | str, dtype: torch.dtype) -> Nothing:
        """See Mixer.make_state."""
        return Nothing(torch.zeros(batch, 0, device=device, dtype=dtype))


@plain_class
class MLPLayer(Forgetful):
    def __init__(self, config: NemotronHConfig) -> None:
        super().__init__()
        self.size, self.width = config.hidden_size, config.intermediate_size
        self.act = _act(config)
        self.up_proj = Linear(self.size, self.width, bias=config.mlp_bias)
        self.down_proj = Linear(self.width, self.size, bias=config.mlp_bias)

    def forward(
        self, hidden: Tensor, mask: Tensor | None = None, documents: Documents | None = None, state: Nothing | None = None
    ) -> Tensor:
        """See Mixer.forward."""
        return call(self, "down_proj", self.act(call(self, "up_proj", hidden, self.width)), self.size)


@plain_class
class SigmoidRouter(nn.Module):
    """DeepSeek-V3's (2024, section 2.1.2): experts are chosen by score plus a bias that training balances, and weighted by score alone.
    forward: x (tokens, size) -> weights and numbers of the experts, (tokens, k) each. Float32 throughout."""

    def __init__(self, config: NemotronHConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.e_score_correction_bias = nn.Parameter(torch.zeros(config.n_routed_experts), requires_grad=False)
        self.e_score_correction_bias.always_float32 = True  # type: ignore[attr-defined]
        if not self.weight.is_meta:
            nn.init.normal_(self.weight, std=config.initializer_range)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        scores = nn.functional.linear(x.float(), self.weight.float()).sigmoid()
        choice = scores + self.e_score_correction_bias.float()
        if config.n_group > 1:
            grouped = choice.unflatten(-1, (config.n_group, -1))
            best = grouped.topk(2, dim=-1).values.sum(-1).topk(config.topk_group, dim=-1).indices
            outside = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(1, best, False)
            choice = grouped.masked_fill(outside.unsqueeze(-1), -math.inf).flatten(1)
        chosen = choice.topk(config.num_experts_per_tok, dim=-1).indices
        weights = scores.gather(1, chosen)
        if config.norm_topk_prob:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * config.routed_scaling_factor, chosen


@plain_class
class MoELayer(Forgetful):
    """The experts that a token chooses, in a narrower space where the configuration has one, and an MLP for all tokens."""

    def __init__(self, config: NemotronHConfig) -> None:
        super().__init__()
        size, narrow = config.hidden_size, config.moe_latent_size
        self.size, self.narrow = size, narrow
        self.gate = SigmoidRouter(config)
        self.experts = Experts(
            config.n_routed_experts, narrow or size, config.moe_intermediate_size, _act(config), False, config.initializer_range
        )
        self.shared_experts = PlainMLP(size, config.moe_shared_expert_intermediate_size, _act(config), config.mlp_bias)
        if narrow is not None:
            self.fc1_latent_proj = Linear(size, narrow, bias=config.mlp_bias)
            self.fc2_latent_proj = Linear(narrow, size, bias=config.mlp_bias)

    def forward(
        self, hidden: Tensor, mask: Tensor | None = None, documents: Documents | None = None, state: Nothing | None = None
    ) -> Tensor:
        """See Mixer.forward."""
        flat = hidden.flatten(0, -2)
        weights, chosen = self.gate(flat)
        if self.narrow is not None:
            flat = call(self, "fc1_latent_proj", flat, self.narrow)
        routed = self.experts(flat, chosen, weights)
        if self.narrow is not None:
            routed = call(self, "fc2_latent_proj", routed, self.size)
        return routed.view_as(hidden) + call(self, "shared_experts", hidden, self.size)


def _act(config: NemotronHConfig) -> Callable[[Tensor], Tensor]:
    return activation(config.mlp_hidden_act, "mlp_hidden_act")


_SHARED = LinearLayer("mixer.shared_experts.up_proj"), LinearLayer("mixer.shared_experts.down_proj", residual=True)
_STACKS = Stack("mixer.experts.up", "mixer.experts.{}.up_proj.weight"), Stack("mixer.experts.down", "mixer.experts.{}.down_proj.weight")
_NARROW = LinearLayer("mixer.fc1_latent_proj"), LinearLayer("mixer.fc2_latent_proj", residual=True)
KINDS: dict[str, LayerKind[NemotronHConfig]] = {
    "mamba": LayerKind(HybridMamba2, MAMBA2_LAYERS),
    "attention": LayerKind(NemotronHAttention, ATTENTION_LAYERS),
    "mlp": LayerKind(MLPLayer, (LinearLayer("mixer.up_proj"), LinearLayer("mixer.down_proj", residual=True))),
    "moe": LayerKind(MoELayer, _SHARED, stacks=_STACKS),
    "narrow moe": LayerKind(MoELayer, (*_SHARED, *_NARROW), stacks=_STACKS),
}


def _layers(config: NemotronHConfig) -> Sequence[LayerKind[NemotronHConfig]]:
    narrow = config.moe_latent_size is not None
    return [KINDS["narrow moe" if kind == "moe" and narrow else kind] for kind in config.kinds]


FAMILY = Family(
    NemotronHConfig,
    _layers,
    {
        "tiny": {
            "hidden_size": 256, "num_hidden_layers": 6, "layer_types": ["mamba", "mlp", "mamba", "attention", "mamba", "mlp"],
            "num_attention_heads": 4, "num_key_value_heads": 2, "attention_head_dim": 64, "intermediate_size": 1024, "num_heads": 8,
            "n_groups": 1, "state_size": 64, "n_routed_experts": 0,
        },
    },
    ignored=("mtp.",),
)  # fmt: skip

"""What the hybrid families share: a configuration that is transformers' config.json, and its Mamba-2 mixer.

A field that ``Config`` has keeps its name here; ``keys`` says what config.json calls it. Whatever else config.json holds is kept and
written again, so that transformers finds it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch

from anymamba.errors import ArgumentError, UnsupportedError
from anymamba.language import _
from anymamba.models.config import Config
from anymamba.models.family import LinearLayer
from anymamba.models.mamba2 import Mamba2Config, Mamba2Mixer
from anymamba.models.plain import plain_class
from anymamba.models.trunk.rotary import Rotary
from anymamba.models.trunk.state import LayerState

H = TypeVar("H", bound="HybridConfig")

TRANSFORMERS = (5, 23)
"""The version of transformers whose configurations are known here to the last field."""

KINDS = {
    "mamba": "mamba", "linear_attention": "mamba", "attention": "attention", "full_attention": "attention",
    "hybrid": "hybrid", "moe": "moe", "mlp": "mlp",
}  # fmt: skip
"""Names of a layer's kind in config.json, older and newer, -> ours."""

_NO_MATTER = frozenset((
    "architectures", "model_type", "auto_map", "transformers_version", "_name_or_path", "torch_dtype", "dtype", "_attn_implementation",
    "_attn_implementation_autoset", "_commit_hash", "tie_encoder_decoder",
))  # fmt: skip
"""Keys of a config.json that say nothing to another program about what is computed, or are written anew."""

_HARMLESS = frozenset((
    "use_cache", "return_dict", "output_hidden_states", "output_attentions", "id2label", "label2id", "problem_type", "is_encoder_decoder",
    "pruned_heads", "chunk_size_feed_forward", "cross_attention_hidden_size", "add_cross_attention", "is_decoder", "torchscript",
    "use_bfloat16", "tf_legacy_loss", "attention_dropout", "hidden_dropout", "num_logits_to_keep", "use_mamba_kernels",
    "output_router_logits", "router_aux_loss_coef", "z_loss_coefficient", "use_mambapy", "use_associative_scan", "use_mem_eff_path",
    "mamba_ssm_cache_dtype", "prefix", "sep_token_id", "decoder_start_token_id", "task_specific_params",
))  # fmt: skip
"""Keys that change no logits of a loaded model."""


@dataclass
class HybridConfig(Config):
    """num_key_value_heads: None: as many as heads. attention_head_dim: channels of an attention head; None: hidden_size over heads.
    rope_parameters: transformers' (rope_type, rope_theta, factor ...). other: keys of
    config.json that change no logits."""

    time_step_rank: int | str = 1
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    attention_head_dim: int | None = None
    max_position_embeddings: int = 4096
    rope_parameters: dict[str, Any] | None = None
    other: dict[str, Any] = field(default_factory=dict)

    keys: ClassVar[dict[str, str]] = {"attention_head_dim": "head_dim"}
    """Our field -> its key in config.json, where that is another."""

    unwritten: ClassVar[frozenset[str]] = frozenset(
        ["other", "time_step_rank", "residual_in_fp32", "rescale_prenorm_residual", "time_step_min", "time_step_max", "time_step_floor"]
    )
    """Fields that config.json of this family does not have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.num_attention_heads % self.num_key_value_heads:
            raise ArgumentError(
                "config",
                _("num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}").format(
                    heads=self.num_attention_heads, kv_heads=self.num_key_value_heads
                ),
            )

    @property
    def context(self) -> int | None:
        return self.max_position_embeddings

    @property
    def headdim(self) -> int:
        """Channels of an attention head."""
        return self.attention_head_dim or self.hidden_size // self.num_attention_heads

    def rotary(self, headdim: int, share: float = 1.0) -> Rotary:
        """share: of a head's channels that are turned, where ``rope_parameters`` does not say."""
        options = self.rope_parameters or {}
        dim = int(headdim * float(options.get("partial_rotary_factor", share)))
        return _rotary(dim, json.dumps(options, sort_keys=True), self.max_position_embeddings)

    def check_kinds(self, name: str, kinds: Sequence[str], allowed: Sequence[str]) -> list[str]:
        """Our names of the layers' kinds. name: the key of config.json they stand in. Raises ArgumentError for one that the family does not
        have, and where there are not as many as layers."""
        for index, kind in enumerate(kinds):
            if KINDS.get(kind) not in allowed:
                raise ArgumentError(
                    "config",
                    _("{key}: layer {index} is {kind!r}, which {model_type} does not have").format(
                        key=name, index=index, kind=kind, model_type=self.model_type
                    ),
                    fix=_("known: ") + ", ".join(key for key, value in KINDS.items() if value in allowed),
                )
        if len(kinds) != self.num_hidden_layers:
            raise ArgumentError(
                "config",
                _("{key} names {count} layers, num_hidden_layers is {layers}: they must be equal").format(
                    key=name, count=len(kinds), layers=self.num_hidden_layers
                ),
            )
        return [KINDS[kind] for kind in kinds]

    def to_dict(self) -> dict[str, Any]:
        """See Config.to_dict."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name not in self.unwritten}
        if self.attention_head_dim is None:  # transformers asks whether there is the key, not whether it says anything
            values.pop("attention_head_dim", None)
        values = {self.keys.get(name, name): value for name, value in values.items()}
        if values.get("time_step_limit") == (0.0, math.inf):  # the default, and JSON has no infinity
            del values["time_step_limit"]
        elif "time_step_limit" in values:
            values["time_step_limit"] = [{"__float__": "Infinity"} if math.isinf(one) else one for one in values["time_step_limit"]]
        return {"architectures": [self.architecture], "model_type": self.model_type, **self.other, **values}

    @classmethod
    def from_dict(cls: type[H], values: dict[str, Any]) -> H:
        """See Config.from_dict. Raises UnsupportedError for quantised weights, and for a newer transformers' fields."""
        values = cls.modern(dict(values))
        rounded = values.pop("quantization_config", None)
        if rounded and rounded.get("quant_method") != "anymamba":  # ours is read with the weights, see hub/quantized.py
            raise UnsupportedError(
                "checkpoint",
                _("quantization_config: the weights are quantised ({method}), which anymamba does not read").format(
                    method=rounded.get("quant_method", "?")
                ),
                fix=_("take the model's 16-bit checkpoint; --quantize int8 rounds it when it is loaded"),
            )
        named = {theirs: ours for ours, theirs in cls.keys.items()}
        fields = {one.name for one in dataclasses.fields(cls)} - {"other"} - (cls.unwritten - {"residual_in_fp32"})
        chosen = {named.get(key, key): value for key, value in values.items() if named.get(key, key) in fields}
        rest = {
            key: value for key, value in values.items() if named.get(key, key) not in fields and key not in _NO_MATTER
        }
        _check_known(rest, values.get("transformers_version"))
        config = super().from_dict({**chosen, "other": rest})
        return config

    @classmethod
    def modern(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The content of config.json with the newest names of keys. Here: ``rope_theta`` and ``rope_scaling`` as ``rope_parameters``."""
        theta, scaling = values.pop("rope_theta", None), values.pop("rope_scaling", None)
        share = values.pop("partial_rotary_factor", None)
        if values.get("rope_parameters") is None and (theta is not None or scaling or share is not None):
            options: dict[str, Any] = {"rope_theta": 10000.0 if theta is None else theta, "rope_type": "default"}
            if share is not None:
                options["partial_rotary_factor"] = share
            options.update({"rope_type" if key == "type" else key: value for key, value in (scaling or {}).items()})
            values["rope_parameters"] = options
        return values


def _check_known(rest: Mapping[str, Any], version: Any) -> None:
    numbers = re.match(r"(\d+)\.(\d+)", str(version or ""))
    if numbers is None or (int(numbers[1]), int(numbers[2])) <= TRANSFORMERS:
        return
    unknown = [key for key, value in rest.items() if value not in (None, False, 0, "", [], {}) and key not in _HARMLESS]
    if unknown:
        raise UnsupportedError(
            "checkpoint",
            _("{key} = {value!r} is not known").format(key=unknown[0], value=rest[unknown[0]]),
            why=_("transformers {version} wrote it; anymamba knows the configurations up to {known}").format(
                version=version, known=".".join(map(str, TRANSFORMERS))
            ),
            fix=_("take a newer anymamba"),
        )


@dataclass
class Mamba2Part(Mamba2Config):
    """The Mamba-2 mixer's part of a hybrid's configuration; heads times channels need not be expand * hidden_size."""

    @property
    def d_inner(self) -> int:
        return self.num_heads * self.head_dim


@plain_class
class HybridMamba2(Mamba2Mixer):
    """The mixer of a configuration that has ``mamba2_part``."""

    def __init__(self, config: Any) -> None:
        super().__init__(config.mamba2_part())

    @classmethod
    def make_state(cls, config: Any, batch: int, device: torch.device | str, dtype: torch.dtype) -> LayerState:
        """See Mixer.make_state."""
        return super().make_state(config.mamba2_part(), batch, device, dtype)


MAMBA2_KEYS = {
    **HybridConfig.keys, "state_size": "mamba_d_state", "layer_norm_epsilon": "rms_norm_eps", "expand": "mamba_expand",
    "conv_kernel": "mamba_d_conv", "use_bias": "mamba_proj_bias", "use_conv_bias": "mamba_conv_bias", "num_heads": "mamba_n_heads",
    "n_groups": "mamba_n_groups", "head_dim": "mamba_d_head", "chunk_size": "mamba_chunk_size",
}  # fmt: skip
"""``keys`` of the families that name their Mamba-2 layers as Bamba does."""

# PEFT refuses adapters on an out_proj of some of these families, as transformers' fused path would pass them over
MAMBA2_LAYERS = LinearLayer("mixer.in_proj"), LinearLayer("mixer.out_proj", lora=False, residual=True)
ATTENTION_LAYERS = (
    LinearLayer("mixer.q_proj"), LinearLayer("mixer.k_proj"), LinearLayer("mixer.v_proj"), LinearLayer("mixer.o_proj", residual=True),
)  # fmt: skip


@functools.lru_cache(maxsize=16)
def _rotary(dim: int, options: str, context: int) -> Rotary:
    """One for all layers of a model: they share its table."""
    return Rotary(dim, json.loads(options), context)

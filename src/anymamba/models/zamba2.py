"""Zamba2 (Zyphra 2024): Mamba-2 layers; before some of them runs one of a few transformer blocks that they share, with low-rank changes
of its own for every use.

Parameters are named like those of transformers' Zamba2ForCausalLM.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from anymamba.models.family import Family, LayerKind, LinearLayer
from anymamba.models.granitemoehybrid import mamba2_part
from anymamba.models.hybrid import MAMBA2_LAYERS, HybridConfig, HybridMamba2, Mamba2Part
from anymamba.models.plain import plain_class
from anymamba.models.trunk.activation import activation
from anymamba.models.trunk.attention import Attention, AttentionSizes
from anymamba.models.trunk.documents import Documents
from anymamba.models.trunk.key_values import KeyValues
from anymamba.models.trunk.linear import Linear
from anymamba.models.trunk.norm import ChannelNorm
from anymamba.models.trunk.parts import Parts
from anymamba.models.trunk.submodule import call

_DEFAULT = ["mamba"] + (["mamba"] * 5 + ["hybrid"]) * 7 + ["mamba"] * 4 + ["hybrid"] + ["mamba"] * 3 + ["hybrid"] + ["mamba"] * 2
"""Zamba2-2.7B's layers."""


@dataclass
class Zamba2Config(HybridConfig):
    """layers_block_type: which layers have a shared block before them ("hybrid"). num_mem_blocks: how many different shared blocks there
    are, used in turn. adapter_rank: of the changes of the shared MLP and, if use_shared_attention_adapter, of its attention."""

    vocab_size: int = 32000
    hidden_size: int = 2560
    num_hidden_layers: int = 54
    state_size: int = 64
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    layers_block_type: list[str] | None = None
    num_heads: int = 8
    n_groups: int = 1
    chunk_size: int = 256
    intermediate_size: int | None = None
    mlp_act: str = "gelu"
    num_mem_blocks: int = 1
    use_shared_attention_adapter: bool = False
    adapter_rank: int = 128
    use_mem_rope: bool = False
    use_long_context: bool = False

    model_type: ClassVar[str] = "zamba2"
    architecture: ClassVar[str] = "Zamba2ForCausalLM"
    keys: ClassVar[dict[str, str]] = {
        "state_size": "mamba_d_state", "layer_norm_epsilon": "rms_norm_eps", "expand": "mamba_expand", "conv_kernel": "mamba_d_conv",
        "num_heads": "n_mamba_heads", "n_groups": "mamba_ngroups", "mlp_act": "hidden_act", "use_bias": "add_bias_linear",
    }  # fmt: skip
    unwritten: ClassVar[frozenset[str]] = (HybridConfig.unwritten - {"time_step_min", "time_step_max", "time_step_floor"}) | {
        "hidden_act", "attention_head_dim",
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        self.intermediate_size = self.intermediate_size or 4 * self.hidden_size
        self.layers_block_type = self.layers_block_type or list(_DEFAULT)
        if self.use_long_context:
            self.max_position_embeddings = 16384
        self.kinds: list[str] = self.check_kinds("layers_block_type", self.layers_block_type, ["mamba", "hybrid"])
        self.mamba2_part()
        if self.use_mem_rope:
            self.rotary(self.headdim)

    @property
    def headdim(self) -> int:
        """See HybridConfig.headdim: attention works on twice the width."""
        return 2 * self.hidden_size // self.num_attention_heads

    @property
    def head_dim(self) -> int:
        """Channels of a Mamba head."""
        return self.d_inner // self.num_heads

    @property
    def context(self) -> int | None:
        return self.max_position_embeddings if "hybrid" in self.kinds else None

    def mamba2_part(self) -> Mamba2Part:
        """As transformers has it: dt is at least time_step_min, and the norm of the mixer has its own epsilon."""
        part = mamba2_part(self, limit=(self.time_step_min, math.inf))
        part.layer_norm_epsilon = 1e-5
        return part


@plain_class
class LowRank(nn.ModuleList):
    """(..., size) -> (..., out) through ``rank`` channels."""

    def __init__(self, size: int, rank: int, out: int) -> None:
        super().__init__([Linear(size, rank, bias=False), Linear(rank, out, bias=False)])

    def forward(self, x: Tensor) -> Tensor:
        down, up = self
        y: Tensor = up(down(x))
        return y


def _low_rank(config: Zamba2Config, block: int, size: int, out: int) -> nn.ModuleList:
    """One for every use of this block; the uses of other blocks have none."""
    uses = range(config.kinds.count("hybrid"))
    own = (use % config.num_mem_blocks == block for use in uses)
    return nn.ModuleList(LowRank(size, config.adapter_rank, out) if mine else nn.Identity() for mine in own)


@plain_class
class SharedAttention(Attention):
    """Over stream and embedding beside one another. use: for which of its uses it runs now."""

    use = 0

    def __init__(self, config: Zamba2Config, block: int) -> None:
        super().__init__(config)
        size = 2 * config.hidden_size
        self.changed = config.use_shared_attention_adapter
        if self.changed:
            for letter in "qkv":
                setattr(self, f"linear_{letter}_adapter_list", _low_rank(config, block, size, size))

    @classmethod
    def sizes_of(cls, config: Zamba2Config) -> AttentionSizes:
        size, heads, headdim = config.hidden_size, config.num_attention_heads, config.headdim
        rotary = config.rotary(headdim) if config.use_mem_rope else None
        kv_heads = config.num_key_value_heads or heads
        return AttentionSizes(2 * size, size, heads, kv_heads, headdim, (headdim / 2) ** -0.5, rotary=rotary)

    def _heads(self, name: str, hidden: Tensor, heads: int) -> Tensor:
        y = super()._heads(name, hidden, heads)
        if not self.changed:
            return y
        change: Tensor = getattr(self, f"linear_{name[0]}_adapter_list")[self.use](hidden)
        return y + change.unflatten(-1, (heads, self.sizes.headdim)).transpose(1, 2)


@plain_class
class SharedMLP(nn.Module):
    def __init__(self, config: Zamba2Config, block: int) -> None:
        super().__init__()
        size, self.width = config.hidden_size, int(config.intermediate_size or 0)
        self.act = activation(config.mlp_act, "hidden_act")
        self.gate_up_proj = Linear(size, 2 * self.width, bias=config.use_bias)
        self.down_proj = Linear(self.width, size, bias=config.use_bias)
        self.gate_up_proj_adapter_list = _low_rank(config, block, size, 2 * self.width)

    def forward(self, x: Tensor, use: int) -> Tensor:
        y = call(self, "gate_up_proj", x, 2 * self.width) + self.gate_up_proj_adapter_list[use](x)
        gate, y = y.chunk(2, dim=-1)
        return call(self, "down_proj", self.act(gate) * y, x.shape[-1])


@plain_class
class SharedBlock(nn.Module):
    """Attention and MLP, each behind a norm, without a residual stream."""

    def __init__(self, config: Zamba2Config, block: int) -> None:
        super().__init__()
        self.input_layernorm = ChannelNorm(2 * config.hidden_size, config.layer_norm_epsilon)
        self.self_attn = SharedAttention(config, block)
        self.pre_ff_layernorm = ChannelNorm(config.hidden_size, config.layer_norm_epsilon)
        self.feed_forward = SharedMLP(config, block)

    def forward(
        self, both: Tensor, use: int, mask: Tensor | None, documents: Documents | None, state: KeyValues | None
    ) -> Tensor:
        self.self_attn.use = use
        hidden = self.self_attn(self.input_layernorm(both), mask=mask, documents=documents, state=state)
        y: Tensor = self.feed_forward(self.pre_ff_layernorm(hidden), use)
        return y


@plain_class
class Aside(nn.Module):
    """See LayerKind.aside. use: which use of its shared block this is, counted over all of them."""

    def __init__(self, config: Zamba2Config, use: int) -> None:
        super().__init__()
        self.use, self.shared_count = use, config.num_mem_blocks
        self.shared_transformer = SharedBlock(config, use % config.num_mem_blocks)
        self.linear = Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self, stream: Tensor, embedded: Tensor, mask: Tensor | None, documents: Documents | None, state: Any
    ) -> Tensor:
        both = torch.cat([stream.to(embedded.dtype), embedded], dim=-1)
        own = None if state is None else state.part("shared")
        return call(self, "linear", self.shared_transformer(both, self.use, mask, documents, own), stream.shape[-1])


@plain_class
class MambaBesideShared(HybridMamba2):
    """The mixer of a layer with a shared block, whose keys and values stand in the same state."""

    @classmethod
    def make_state(cls, config: Any, batch: int, device: torch.device | str, dtype: torch.dtype) -> Any:
        """See Mixer.make_state."""
        own = super().make_state(config, batch, device, dtype)
        return Parts({"mamba": own, "shared": SharedAttention.make_state(config, batch, device, dtype)})

    def forward(
        self, hidden: Tensor, mask: Tensor | None = None, documents: Documents | None = None, state: Any = None
    ) -> Tensor:
        """See Mixer.forward."""
        return super().forward(hidden, mask, documents, None if state is None else state.part("mamba"))


MAMBA: LayerKind[Zamba2Config] = LayerKind(HybridMamba2, MAMBA2_LAYERS, names=(("mamba.", "mixer."), ("input_layernorm.", "norm.")))


@functools.lru_cache(maxsize=512)
def _hybrid(use: int, uses: int, blocks: int, changed: bool) -> LayerKind[Zamba2Config]:
    """The kind of the layer with this use of a shared block."""
    lists = ["feed_forward.gate_up_proj_adapter_list"]
    lists += [f"self_attn.linear_{letter}_adapter_list" for letter in "qkv"] if changed else []
    own = [other for other in range(uses) if other % blocks == use % blocks]
    names = [f"self_attn.{letter}_proj" for letter in "qkvo"] + ["feed_forward.gate_up_proj", "feed_forward.down_proj"]
    low_rank = [f"{one}.{other}.{part}" for one in lists for other in own for part in (0, 1)]
    shared = [LinearLayer(f"aside.shared_transformer.{name}") for name in names]
    shared += [LinearLayer(f"aside.shared_transformer.{name}", lora=False) for name in low_rank]
    return LayerKind(
        MambaBesideShared,
        (*MAMBA2_LAYERS, *shared, LinearLayer("aside.linear")),
        names=(
            ("mamba_decoder.mamba.", "mixer."), ("mamba_decoder.input_layernorm.", "norm."),
            ("shared_transformer.", "aside.shared_transformer."), ("linear.", "aside.linear."),
        ),
        aside=lambda config: Aside(config, use),
    )  # fmt: skip


def _layers(config: Zamba2Config) -> Sequence[LayerKind[Zamba2Config]]:
    uses, kinds = config.kinds.count("hybrid"), []
    for place, kind in enumerate(config.kinds):
        use = config.kinds[:place].count("hybrid")
        hybrid = kind == "hybrid"
        kinds.append(_hybrid(use, uses, config.num_mem_blocks, config.use_shared_attention_adapter) if hybrid else MAMBA)
    return kinds


def _tie(config: Zamba2Config, layers: Sequence[nn.Module]) -> None:
    """Every shared block is made once; as transformers has it, only where the head and the embedding are one table too."""
    if not config.tie_word_embeddings:
        return
    asides: list[Any] = [block.aside for block in layers if block.aside is not None]
    first: dict[int, nn.Module] = {}
    for aside in asides:
        aside.shared_transformer = first.setdefault(aside.use % aside.shared_count, aside.shared_transformer)


FAMILY = Family(
    Zamba2Config,
    _layers,
    {
        "tiny": {
            "hidden_size": 256, "num_hidden_layers": 6, "layers_block_type": ["mamba", "mamba", "hybrid"] * 2, "num_attention_heads": 4,
            "intermediate_size": 512, "adapter_rank": 16, "use_mem_rope": True,
        },
    },
    names=(
        ("model.layers.", "backbone.layers."), ("model.embed_tokens.", "backbone.embeddings."),
        ("model.final_layernorm.", "backbone.norm_f."),
    ),
    tie=_tie,
)  # fmt: skip

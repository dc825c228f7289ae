"""Leaky: a family that nobody needs, as its author would write it. Every channel is a running mean of the past; every second layer reads
the whole past instead, with keys and values. test_family_recipe.py puts this file where CONTRIBUTING.md says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from anymamba.models.config import Config
from anymamba.models.family import Family, LayerKind, LinearLayer
from anymamba.models.plain import plain_class
from anymamba.models.trunk.documents import Documents
from anymamba.models.trunk.linear import Linear
from anymamba.models.trunk.mixer import Mixer
from anymamba.models.trunk.mlp import GatedMLP
from anymamba.models.trunk.state import State
from anymamba.models.trunk.submodule import call


@dataclass
class LeakyConfig(Config):
    """half_life: of a token in the running mean, in tokens, before training."""

    half_life: float = 4.0

    model_type: ClassVar[str] = "leaky"
    architecture: ClassVar[str] = "LeakyForCausalLM"


@dataclass
class Mean(State):
    """mean: (batch, d_model), float32."""

    mean: Tensor


@plain_class
class LeakyMixer(Mixer[Mean]):
    def __init__(self, config: LeakyConfig) -> None:
        super().__init__()
        self.config = config
        self.in_proj = Linear(config.hidden_size, config.hidden_size, bias=False)
        self.decay = nn.Parameter(torch.empty(config.hidden_size))
        self.out_proj = Linear(config.hidden_size, config.hidden_size, bias=False)

    @torch.no_grad()
    def init_parameters(self) -> None:
        """The decay of the configuration's half life, before a sigmoid."""
        kept = torch.tensor(0.5 ** (1 / self.config.half_life))
        self.decay.fill_(float(kept.logit()))

    def forward(
        self, hidden: Tensor, mask: Tensor | None = None, documents: Documents | None = None, state: Mean | None = None
    ) -> Tensor:
        """See Mixer.forward."""
        x = call(self, "in_proj", hidden, self.config.hidden_size).float()
        if mask is not None:
            x = x * mask
        kept = torch.sigmoid(self.decay.float())
        mean = torch.zeros_like(x[:, 0]) if state is None else state.mean
        outputs = []
        for t in range(x.shape[1]):
            if documents is not None:
                mean = mean.masked_fill(documents.starts[:, t, None], 0.0)
            mean = mean * kept + x[:, t] * (1 - kept)
            outputs.append(mean)
        if state is not None:
            state.mean.copy_(mean.detach())
        return call(self, "out_proj", torch.stack(outputs, 1).to(hidden.dtype), self.config.hidden_size)

    @classmethod
    def make_state(cls, config: LeakyConfig, batch: int, device: torch.device | str, dtype: torch.dtype) -> Mean:
        """See Mixer.make_state."""
        return Mean(torch.zeros(batch, config.hidden_size, device=device))


@dataclass
class Past(State):
    """keys, values: (batch, tokens, d_model). They grow with the text."""

    keys: Tensor
    values: Tensor

    def copy_(self, other: State) -> None:
        """See State.copy_."""
        self.load(other.tensors())

    def reset(self) -> None:
        """See State.reset."""
        self.keys, self.values, self.used = self.keys[:, :0], self.values[:, :0], False

    def misfit(self, saved: Mapping[str, Tensor]) -> str:
        """See State.misfit; any number of tokens fits."""
        right = all(name in saved and saved[name].shape[2:] == own.shape[2:] for name, own in self.tensors().items())
        return "" if right else f"it has {sorted(saved)}, this model needs keys and values of {self.keys.shape[2]} channels"

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """See State.load."""
        rows = len(self.keys)
        self.keys, self.values = (saved[name].expand(rows, -1, -1).to(own) for name, own in self.tensors().items())


@plain_class
class AttentionMixer(Mixer[Past]):
    """One head, without positions."""

    def __init__(self, config: LeakyConfig) -> None:
        super().__init__()
        self.width = config.hidden_size
        self.qkv_proj = Linear(self.width, 3 * self.width, bias=True)
        self.o_proj = Linear(self.width, self.width, bias=False)

    def init_parameters(self) -> None:
        """torch's own values do."""

    def forward(
        self, hidden: Tensor, mask: Tensor | None = None, documents: Documents | None = None, state: Past | None = None
    ) -> Tensor:
        """See Mixer.forward."""
        query, key, value = call(self, "qkv_proj", hidden, 3 * self.width).chunk(3, dim=-1)
        length = hidden.shape[1]
        allowed = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril().expand(len(hidden), -1, -1)
        if documents is not None:
            number = documents.starts.cumsum(1)
            allowed = allowed & (number[:, :, None] == number[:, None])
        if mask is not None:
            allowed = allowed & (mask.mT != 0) | torch.eye(length, dtype=torch.bool, device=hidden.device)
        if state is not None:
            allowed = torch.cat([allowed.new_ones(*allowed.shape[:2], state.keys.shape[1]), allowed], dim=-1)
            key, value = torch.cat([state.keys, key], 1), torch.cat([state.values, value], 1)
            state.keys, state.values = key.detach(), value.detach()
        y = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return call(self, "o_proj", y, self.width)

    @classmethod
    def make_state(cls, config: LeakyConfig, batch: int, device: torch.device | str, dtype: torch.dtype) -> Past:
        """See Mixer.make_state."""
        keys, values = (torch.zeros(batch, 0, config.hidden_size, device=device, dtype=dtype) for _ in "kv")
        return Past(keys, values)


LEAKY = LayerKind(
    LeakyMixer,
    (LinearLayer("mixer.in_proj"), LinearLayer("mixer.out_proj", residual=True)),
    names=(("leak.", "mixer."), ("input_layernorm.", "norm.")),
)
ATTENTION = LayerKind(
    AttentionMixer,
    (
        LinearLayer("mixer.qkv_proj"), LinearLayer("mixer.o_proj", residual=True),
        LinearLayer("mlp.fc1"), LinearLayer("mlp.fc2", residual=True, quantize=False),
    ),
    mlp=lambda config: GatedMLP(config.hidden_size, 2 * config.hidden_size),
    names=(("self_attn.", "mixer."), ("input_layernorm.", "norm."), ("post_attention_layernorm.", "norm2.")),
)  # fmt: skip

FAMILY = Family(
    LeakyConfig,
    lambda config: [ATTENTION if index % 2 else LEAKY for index in range(config.num_hidden_layers)],
    {"tiny": {"hidden_size": 16, "num_hidden_layers": 2}, "small": {"hidden_size": 32, "num_hidden_layers": 4}},
    names=(("model.layers.", "backbone.layers."), ("model.embed_tokens.", "backbone.embeddings."), ("model.norm.", "backbone.norm_f.")),
)

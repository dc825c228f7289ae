"""Bytes that a model takes: its weights by dtype, the state of a text, what training adds. Nothing is allocated to find out."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from anymamba.models.config import Config
from anymamba.models.families import family_of
from anymamba.models.lm import LanguageModel

TRAINING_BYTES = 16
"""A parameter: weight, gradient and two moments of AdamW, all float32."""


@dataclass(frozen=True)
class Footprint:
    """parameters: how many, tied ones once. quantized: those in linear layers that int8 keeps in a byte. head: of the head; tied: it is
    the embedding too.

    state: bytes of the recurrent state of one text, float32. token: numbers that attention keeps of every token of a text, in the dtype of
    the activations. context: tokens of a text that the model was trained for; None: no limit.
    """

    parameters: int
    quantized: int
    head: int
    tied: bool
    state: int
    token: int = 0
    context: int | None = None

    @property
    def training(self) -> int:
        """Bytes before the first row of text: weights, gradients and moments."""
        return TRAINING_BYTES * self.parameters

    def weights(self, size: int, width: str | None = None) -> int:
        """Bytes of the weights with ``size`` bytes for each; width: "int8" or "int4" of those that quantisation concerns.

        In int8 a tied head becomes a copy of its own. In int4 head and tied embedding share one matrix of eight bits, and the rest is
        float32.
        """
        if width is None:
            return size * self.parameters
        rest = self.parameters - self.quantized - (0 if self.tied else self.head)
        if width == "int8":
            return self.quantized + self.head + size * rest
        shared = self.head if self.tied else 0
        return round(self.quantized * 20 / 32 + self.head * 34 / 32) + 4 * (rest - shared)


def footprint(config: Config) -> Footprint:
    """Of a model with this configuration."""
    with torch.device("meta"):
        model = LanguageModel(config)
    kinds = family_of(config).layers(config)
    quantized: dict[int, int] = {}  # a module that several blocks share counts once
    state = token = 0
    for block, kind in zip(model.backbone.layers, kinds):
        rounded = [block.get_submodule(layer.name) for layer in kind.linear_layers if layer.quantize]
        quantized.update({id(layer): layer.weight.numel() for layer in rounded})  # type: ignore[union-attr, operator]
        made = kind.mixer.make_state(config, 1, "meta", torch.float32)
        state += 4 * sum(tensor.numel() for tensor in made.tensors().values())
        token += made.token_numbers
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rounded_numbers, head = sum(quantized.values()), model.lm_head.weight.numel()
    return Footprint(parameters, rounded_numbers, head, config.tie_word_embeddings, state, token, config.context)

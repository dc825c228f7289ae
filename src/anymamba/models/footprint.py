"""Bytes that a model takes: its weights by dtype, the state of a text, what training adds. Nothing is allocated to find out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from anymamba.models.config import Config
from anymamba.models.lm import LanguageModel

TRAINING_BYTES = 16
"""A parameter: weight, gradient and two moments of AdamW, all float32."""


QUANTIZED = ("in_proj", "x_proj", "out_proj")
"""The linear layers of a mixer that ``generation.quantize`` stores in a byte a weight, and the head beside them."""


@dataclass(frozen=True)
class Footprint:
    """parameters: how many, tied ones once. quantized: those in QUANTIZED layers. head: of the head; tied: it is the embedding too.

    state: bytes of the recurrent state of one text, float32.
    """

    parameters: int
    quantized: int
    head: int
    tied: bool
    state: int

    @property
    def training(self) -> int:
        """Bytes before the first row of text: weights, gradients and moments."""
        return TRAINING_BYTES * self.parameters

    def weights(self, size: int, int8: bool = False) -> int:
        """Bytes of the weights with ``size`` bytes for each; int8: a byte for those that quantisation concerns.

        A tied head becomes a copy of its own when it is quantised.
        """
        if not int8:
            return size * self.parameters
        rest = self.parameters - self.quantized - (0 if self.tied else self.head)
        return self.quantized + self.head + size * rest


def footprint(config: Config) -> Footprint:
    """Of a model with this configuration."""
    with torch.device("meta"):
        model = LanguageModel(config)
    parameters = {id(parameter): parameter.numel() for parameter in model.parameters()}
    layers = [getattr(block.mixer, name, None) for block in model.backbone.layers for name in QUANTIZED]
    quantized = sum(layer.weight.numel() for layer in layers if layer is not None)
    state = 4 * sum(math.prod(shape) for shape in config.state_shapes(1)) * config.num_hidden_layers
    head = model.lm_head.weight.numel()
    return Footprint(sum(parameters.values()), quantized, head, config.tie_word_embeddings, state)

"""Four-bit weights that fit a text: every layer is rounded for the inputs that it gets when the model reads that text."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from anymamba.errors import AnymambaError
from anymamba.generation.rounding import compensated
from anymamba.language import _
from anymamba.models.lm import LanguageModel
from anymamba.reference import blocks

LENGTH = 512
"""Tokens that are read in one go, from an empty state."""

LEAST = 128
"""Tokens of a text, below which there is nothing to learn from."""


def windows(ids: list[int], tokens: int, source: str) -> Tensor:
    """The first so many tokens of a text as rows (rows, LENGTH), or one shorter row. Raises AnymambaError for a text that is too short."""
    if len(ids) < LEAST:
        raise AnymambaError(
            "data",
            _("{file} has {tokens} tokens, and calibration needs {least} at least").format(file=source, tokens=len(ids), least=LEAST),
        )
    taken = torch.tensor(ids[: max(tokens, LEAST)])
    return taken[None] if len(taken) < LENGTH else taken[: len(taken) // LENGTH * LENGTH].view(-1, LENGTH)


class Calibration:
    """``numbers`` of ``quantize_int4``: asked for one layer after another, it reads the text block by block, each from what the blocks
    before it, rounded already, have made of it. say(block, blocks): how far it is."""

    def __init__(self, model: LanguageModel, ids: Tensor, say: Callable[[int, int], None] | None = None) -> None:
        self._model, self._ids, self._say = model, ids, say
        self._streams: list[tuple[Tensor, Tensor | None]] = []
        self._block = -1
        self._moments: dict[str, Tensor] = {}

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        """The matrix of the layer of this name in blocks."""
        index = int(name.split(".")[2])
        if index != self._block:
            self._read(index)
        return compensated(weight, self._moments.pop(name.split(".", 3)[3]))

    @torch.no_grad()
    def _read(self, index: int) -> None:
        """Brings the text up to block ``index`` and collects the second moments of its layers' inputs."""
        layers = self._model.backbone.layers
        if self._block < 0:
            backbone, factor = self._model.backbone, self._model.config.multipliers.embedding
            self._streams = [(backbone.embeddings(row[None]) * factor, None) for row in self._ids]
            self._block = 0
        for passed in range(self._block, index):
            self._streams = [layers[passed](*stream) for stream in self._streams]
        self._block = index
        if self._say is not None:
            self._say(index + 1, len(layers))
        block = layers[index]
        linear = {name: layer for name, layer in block.named_modules() if isinstance(layer, nn.Linear) and _fits(layer)}
        hooks = [layer.register_forward_pre_hook(self._collector(name)) for name, layer in linear.items()]
        try:
            for stream in self._streams:
                block(*stream)
        finally:
            for hook in hooks:
                hook.remove()

    def _collector(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def collect(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].detach().float().flatten(0, -2)
            moments = rows.t() @ rows
            self._moments[name] = self._moments[name] + moments if name in self._moments else moments

        return collect


def _fits(layer: nn.Linear) -> bool:
    return layer.in_features % blocks.SIZE == 0

"""What can be done about rounding in a long text: where the residual stream is kept, and reading the state anew from time to time.

What each costs and buys was measured: docs/en/INFERENCE_AND_HALLUCINATION.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymamba.generation.engine import Reader
from anymamba.models.cache import Cache
from anymamba.models.lm import LanguageModel


def keep_residual_in_float32(model: LanguageModel, on: bool) -> None:
    """The sum of the blocks' outputs in float32, or (False) in the dtype of the weights; in place."""
    model.config.residual_in_fp32 = on
    blocks: Any = model.backbone.layers
    for block in blocks:
        block.residual_in_fp32 = on


class ResynchronisedReader(Reader):
    """A Reader that goes back every ``every`` tokens to where it last did so and reads what came since in one parallel pass.

    The state then has the rounding of the parallel scan, not of as many single steps. Costs that pass, and a copy of the state.
    """

    def __init__(self, model: LanguageModel, rows: int = 1, cache: Cache | None = None, every: int = 512) -> None:
        super().__init__(model, rows, cache)
        self.every = every
        self._since: list[Tensor] = []
        self._at = self.cache.clone()

    @torch.inference_mode()
    def read(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = super().read(input_ids, attention_mask)
        self._mark()
        return logits

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        self._since.append(ids.clone())
        if len(self._since) < self.every:
            return super().step(ids)
        self.leave_stepper()
        for layer, before in zip(self.cache.layers, self._at.layers):
            layer.copy_(before)
            layer.used = before.used
        self.cache.tokens = self._at.tokens
        output = self.model(torch.stack(self._since, dim=1), cache=self.cache, logits_to_keep=1)
        assert output.logits is not None
        self.logits = output.logits[:, -1].float()
        self._mark()
        return self.logits

    def _mark(self) -> None:
        self._since.clear()
        self._at = self.cache.clone()

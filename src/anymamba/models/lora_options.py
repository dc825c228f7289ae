"""What is chosen about LoRA before a model is there; without torch, so that ``train --help`` starts at once."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_RANK = 16


@dataclass(frozen=True)
class LoraOptions:
    """rank: of every change. alpha: the change is alpha / rank times B A; 0: twice the rank. targets: names of layers or of groups, with
    commas; empty: the layers that every reader of PEFT's format adapts (``Family.lora_targets``). dropout: before A, in training."""

    rank: int = DEFAULT_RANK
    alpha: float = 0.0
    dropout: float = 0.0
    targets: str = ""
    dora: bool = False

    @property
    def scaling(self) -> float:
        return (self.alpha or 2.0 * self.rank) / self.rank

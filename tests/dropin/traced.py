"""torch.jit.trace and FLOP counters of transformers' models under the drop-in. As a program: prints one JSON document."""

from __future__ import annotations

import copy
import json
import sys
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from tests.dropin.tiny_transformers import build


class Logits(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


def differences(family: str) -> dict[str, float]:
    """Of the traced from the eager model: logits of other ids than it was traced with, and its worst gradient, training and not."""
    ids = [torch.randint(3, 64, (2, 13), generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    found = {}
    for training in (False, True):
        eager = Logits(build(family).train(training))
        copied = copy.deepcopy(eager)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of transformers' own sizes
            traced = torch.jit.trace(copied, (ids[0],), check_trace=False)
        got, want = traced(ids[1]), eager(ids[1])
        found[f"{family} training={training} logits"] = (got - want).abs().max().item()
        got.square().sum().backward()
        want.square().sum().backward()
        pairs = [(a.grad, b.grad) for a, b in zip(copied.parameters(), eager.parameters()) if b.grad is not None]
        worst = max(float("inf") if a is None else ((a - b).abs().max() / b.abs().max().clamp_min(1e-6)).item() for a, b in pairs)
        found[f"{family} training={training} gradients"] = worst
    return found


def main(*families: str) -> None:
    import anymamba

    anymamba.dropin()
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    for family in families:
        found |= differences(family)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

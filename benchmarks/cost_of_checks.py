"""What asking whether modules are plain costs, as a share of a training step and of a token of a 130m model on this CPU.

    python benchmarks/cost_of_checks.py [--family mamba] [--length 512] [--steps 3]

The checks are timed alone, on the very modules that a step asks; the medians are printed as one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from anymamba.generation.engine import Reader
from anymamba.models import sizes
from anymamba.models.lm import LanguageModel
from anymamba.models.trunk import tied
from anymamba.models.trunk.adapters import head_and_input
from anymamba.models.trunk.watch import Watch


def seconds(function: Callable[[], Any], times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        function()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="mamba", choices=("mamba", "mamba2"))
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    model = LanguageModel(sizes.config_of_size("130m", options.family))
    ids = torch.randint(0, model.config.vocab_size, (1, options.length))
    hidden = torch.zeros(1, 1, model.config.hidden_size)

    def checks() -> None:
        tied.shares_gradient(model)
        for block in model.backbone.layers:
            block.mixer._fusible()
        head_and_input(model.lm_head, hidden)

    def step() -> None:
        model(ids, labels=ids).loss.backward()
        model.zero_grad(set_to_none=True)

    step()
    asked, whole = seconds(checks, 200), seconds(step, options.steps)
    reader = Reader(model)
    reader.read(ids[:, :16])
    token = torch.tensor([5])
    for _ in range(3):
        reader.step(token)
    watch = Watch(model)
    changed, one = seconds(watch.changed, 200), seconds(lambda: reader.step(token), 50)
    print(json.dumps({
        "family": options.family, "threads": torch.get_num_threads(), "step_s": whole, "checks_of_a_step_s": asked,
        "share_of_a_step": asked / whole, "token_s": one, "watch_s": changed, "share_of_a_token": changed / one,
    }))  # fmt: skip


if __name__ == "__main__":
    main()

"""Generation as a user has it beside the bare step, on one NVIDIA GPU: how soon a fresh process shows its first token, how long the whole
command takes, and tokens a second of ``model.generate`` and of the command line.

    python benchmarks/generate.py CHECKPOINT [--json generate.json]
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

import anymamba
from anymamba.backends import machine
from anymamba.backends.cuda.decode_step import CudaStepper
from anymamba.generation import engine
from anymamba.generation.stepper import described

PROMPT, TOKENS, RUNS = "Hello world", 1000, 5
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {}, "no repeated 3-grams": {"no_repeat_ngram": 3}, "sampled": {"temperature": 1.0, "top_k": 50, "top_p": 0.9, "seed": 1},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    document: dict[str, Any] = {"date": datetime.date.today().isoformat(), "machine": machine.facts(), "rows": []}
    for row in [*commands(arguments.checkpoint), *rates(arguments.checkpoint)]:
        print(row, flush=True)
        document["rows"].append(row)
        if arguments.json:
            with open(arguments.json, "w") as file:
                json.dump(document, file, indent=1)


def commands(checkpoint: str) -> Iterator[dict[str, Any]]:
    """Whole processes. prompt seconds: from the prompt's tokens to the logits of the first new one."""
    for what, tokens in (("first process", 100), ("second process", 100), ("third process", 100), ("many tokens", 2000)):
        words = [sys.executable, "-m", "anymamba", "generate", checkpoint, "-p", PROMPT, "-m", str(tokens), "--json", "-q"]
        started = time.perf_counter()
        timing = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)["timing"]
        yield {
            "command": what, "new tokens": timing["new_tokens"], "seconds": round(time.perf_counter() - started, 2),
            "prompt seconds": round(timing["prompt_seconds"], 3), "tokens/s": round(timing["tokens_per_second"]),
            "stepper": timing["stepper"],
        }  # fmt: skip


def rates(checkpoint: str) -> Iterator[dict[str, Any]]:
    model = anymamba.load(checkpoint, "cuda")
    ids = torch.randint(0, model.config.vocab_size, (1, 20), device="cuda")
    stepper = CudaStepper(described(model, model.make_cache(1)))

    @torch.inference_mode()
    def bare() -> None:
        token = ids[:, 0]
        for _ in range(TOKENS):
            token = stepper.step(token).argmax(-1)

    bare_rate = median_rate(bare)
    yield {"python": "bare step and argmax", "tokens/s": round(bare_rate)}
    for what, options in WAYS.items():
        rate = median_rate(functools.partial(model.generate, ids, TOKENS, eos=[], **options))
        yield {"python": f"model.generate, {what}", "tokens/s": round(rate), "of the bare step": round(rate / bare_rate, 2)}
    for tokens in (5, 20, 60, 200):
        prompt = ids.repeat(1, 10)[:, :tokens]
        times: list[float] = []
        for limit in (10**15, 0):
            engine.BYTES_BY_STEPS = limit
            rate = median_rate(lambda prompt=prompt: engine.Reader(model, alone=True).read(prompt))  # type: ignore[misc]
            times.append(round(TOKENS / rate * 1e3, 2))
        yield {"prompt": tokens, "ms token by token": times[0], "ms in a pass": times[1]}


def median_rate(run: Callable[[], Any]) -> float:
    """Tokens a second, where a run is TOKENS of them."""
    run()
    seconds = []
    for _ in range(RUNS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return TOKENS / sorted(seconds)[RUNS // 2]


if __name__ == "__main__":
    main()

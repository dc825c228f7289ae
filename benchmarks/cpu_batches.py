"""Tokens a second of a batch on the processor, in all, against one text alone: `python benchmarks/cpu_batches.py --sizes tiny,small,130m`.

Row counts take turns within a round, so that a busy moment of the machine meets all of them. Exits with 1 where a batch is slower in all
than one text.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from anymamba.backends import machine
from anymamba.generation.engine import Reader
from anymamba.generation.quantize import quantize_int8
from anymamba.models.lm import LanguageModel
from anymamba.models.sizes import config_of_size


def rates(size: str, family: str, dtype: str, rows: list[int], steps: int, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = LanguageModel(config_of_size(size, family, vocab_size=50280 if size.endswith("m") else 4096)).eval().requires_grad_(False)
    model = quantize_int8(model) if dtype == "int8" else model.to(getattr(torch, dtype))
    readers = {count: Reader(model, count) for count in rows}
    seconds: dict[int, list[float]] = {count: [] for count in rows}
    for count, reader in readers.items():
        reader.read(torch.randint(model.config.vocab_size, (count, 8)))
        reader.step(torch.zeros(count, dtype=torch.long))
    for _ in range(rounds):
        for count, reader in readers.items():
            ids = torch.arange(count)
            started = time.perf_counter()
            for _ in range(steps):
                reader.step(ids)
            seconds[count].append(time.perf_counter() - started)
    rate = {count: steps * count / statistics.median(values) for count, values in seconds.items()}
    alone = rate[rows[0]] / rows[0]
    return {
        "size": size, "family": family, "dtype": dtype, "stepper": readers[rows[0]].timing.stepper,
        "tokens/s": {str(count): round(value, 1) for count, value in rate.items()},
        "of one text's": {str(count): round(value / alone, 2) for count, value in rate.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", default="tiny,small,130m")
    parser.add_argument("--families", default="mamba,mamba2")
    parser.add_argument("--dtypes", default="float32,bfloat16,float16,int8")
    parser.add_argument("--rows", default="1,2,4,8")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [int(count) for count in arguments.rows.split(",")]
    document: dict[str, Any] = {"date": datetime.date.today().isoformat(), "machine": machine.facts(), "cases": []}
    for size in arguments.sizes.split(","):
        for family in arguments.families.split(","):
            for dtype in arguments.dtypes.split(","):
                case = rates(size, family, dtype, rows, arguments.steps, arguments.rounds)
                document["cases"].append(case)
                print(size, family, dtype, case["tokens/s"], case["of one text's"], file=sys.stderr)
                if arguments.json:
                    arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if any(share < 1 for case in document["cases"] for share in case["of one text's"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

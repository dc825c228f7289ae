"""The fused decode step on a GPU: checked against the model's own step, then timed, with variants of its ring and its block.

    python benchmarks/decode_step.py --json decode_step.json [--only mamba-130m,...] [--dtypes float16,int8,...] [--variants]
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import time
from typing import Any

import torch

from anymamba.backends import machine
from anymamba.backends.cuda import decode
from anymamba.backends.cuda.decode_step import CudaStepper
from anymamba.bench import official
from anymamba.bench.cases import model_cases
from anymamba.generation.quantize import quantize_int8
from anymamba.generation.stepper import described
from anymamba.models.config import Config
from anymamba.models.falcon_mamba import FalconMambaConfig
from anymamba.models.lm import LanguageModel

DEVICE = torch.device("cuda")
CASES = {
    **{f"{family}-{size}": (model_cases.configuration(family, size), rate) for (family, size), rate in official.DECODE.items()},
    "falcon-mamba-7b": (FalconMambaConfig(hidden_size=4096, num_hidden_layers=64, vocab_size=65024), None),
}
"""Name: (configuration, mamba-ssm's tokens a second on an H100)."""
VARIANTS = [(16, 1)]
MORE = [(20, 1), (8, 1), (16, 16)]
STEPS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default="decode_step.json")
    parser.add_argument("--only", default=",".join(name for name, (_, rate) in CASES.items() if rate))
    parser.add_argument("--dtypes", default="bfloat16", help="of the weights; int8: in bfloat16 but for these")
    parser.add_argument("--variants", action="store_true")
    arguments = parser.parse_args()
    document = {"date": datetime.date.today().isoformat(), "machine": machine.facts(), "rows": []}
    for name, dtype in itertools.product(arguments.only.split(","), arguments.dtypes.split(",")):
        config, rate = CASES[name]
        model = make(config, dtype)
        for depth, apart in VARIANTS + (MORE if arguments.variants else []):
            decode.DEPTHS, decode.TOTALS_APART = (depth, 16, 8, 4), apart
            row = {"model": name, "dtype": dtype, "depth": depth, "apart": apart, "official H100": rate}
            try:
                row.update(measure(model))
            except Exception as error:  # noqa: BLE001 - one variant must not end the run
                row["failed"] = f"{type(error).__name__}: {error}"[:300]
            else:
                row["x"] = round(row["tokens/s"] / rate, 2) if rate and dtype == "bfloat16" else None
            document["rows"].append(row)
            print({name: value for name, value in row.items() if name != "official H100"}, flush=True)
            with open(arguments.json, "w") as file:
                json.dump(document, file, indent=1)
        del model
        torch.cuda.empty_cache()


def make(config: Config, dtype: str) -> LanguageModel:
    torch.manual_seed(0)
    with DEVICE:
        model = LanguageModel(config)
    model.to(torch.bfloat16 if dtype == "int8" else getattr(torch, dtype)).requires_grad_(False)
    return quantize_int8(model) if dtype == "int8" else model


@torch.inference_mode()
def measure(model: LanguageModel) -> dict[str, Any]:
    """error: of the logits after eight tokens, relative, against the model's own step; equal: ten runs of it gave the same bits."""
    cache, own = model.make_cache(), model.make_cache()
    started = time.perf_counter()
    stepper = CudaStepper(described(model, cache))
    compiled = time.perf_counter() - started
    worst = 0.0
    for token in range(1, 9):
        ids = torch.full((1,), token, device=DEVICE)
        got, want = stepper.step(ids).double(), model(ids[:, None], cache=own).logits[:, -1].double()
        worst = max(worst, float((got - want).norm() / want.norm()))
    runs = []
    for _ in range(10):
        cache.reset()
        runs.append(torch.cat([stepper.step(torch.full((1,), token, device=DEVICE)).clone() for token in range(1, 5)]))
    ids, bare = torch.ones(1, dtype=torch.long, device=DEVICE), []
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(3):
        begin.record()
        for _ in range(STEPS):
            stepper.step(ids)
        end.record()
        torch.cuda.synchronize()
        bare.append(begin.elapsed_time(end) / STEPS * 1e3)
    loop = []
    for _ in range(5):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(STEPS):
            ids = stepper.step(ids).argmax(-1)
        torch.cuda.synchronize()
        loop.append((time.perf_counter() - started) / STEPS)
    loop.sort()
    weights = sum(p.numel() * p.element_size() for p in [*model.parameters(), *model.buffers()])
    return {
        "error": f"{worst:.1e}", "equal": all(torch.equal(runs[0], run) for run in runs), "compile s": round(compiled, 1),
        "kernel us": round(sorted(bare)[1], 1), "tokens/s": round(1 / loop[2], 1), "TB/s": round(weights / loop[2] / 1e12, 2),
    }  # fmt: skip


if __name__ == "__main__":
    main()

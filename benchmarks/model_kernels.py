"""Where the time of whole models goes on a GPU: kernels of a decode step and of a training step, by time, and the gaps between them.

    python benchmarks/model_kernels.py --json kernels.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from anymamba.backends import machine
from anymamba.bench.cases import model_cases
from anymamba.models.lm import LanguageModel

DEVICE = torch.device("cuda")
CASES = [
    ("mamba", "130m", "decode"),
    ("mamba2", "130m", "decode"),
    ("mamba", "130m", "training"),
    ("mamba2", "130m", "training"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default="model_kernels.json")
    arguments = parser.parse_args()
    document = {"machine": machine.facts(), "rows": []}
    for family, size, mode in CASES:
        torch.manual_seed(0)
        with DEVICE:
            model = LanguageModel(model_cases.configuration(family, size))
        if mode == "decode":
            model.to(torch.bfloat16).requires_grad_(False)
            run, _ = model_cases.decode(model, torch.randint(50280, (1, 16), device=DEVICE))
            units = model_cases.DECODE_STEPS
        else:
            run = model_cases.training_step(model, torch.randint(50280, (8, 2048), device=DEVICE), torch.bfloat16)
            units = 1
        document["rows"].append({"family": family, "size": size, "mode": mode, **times(run, units)})
        with open(arguments.json, "w") as file:
            json.dump(document, file, indent=1)
        show(document["rows"][-1])


def times(run: Callable[[], Any], units: Any) -> dict[str, Any]:
    """Microseconds a unit (a token, a training step): of the whole without the profiler; of the host, until its last launch; busy,
    the sum of all kernels; and of each kernel, with its launches a unit."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(5):
        run()
    host = (time.perf_counter() - start) / 5 / units
    torch.cuda.synchronize()
    whole = (time.perf_counter() - start) / 5 / units
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as found:
        run()
        torch.cuda.synchronize()
    events = [e for e in found.key_averages() if e.device_time_total]
    kernels = {
        e.key[:90]: (round(e.device_time_total / units, 2), round(e.count / units, 2))
        for e in sorted(events, key=lambda e: -e.device_time_total)[:25]
    }
    return {
        "whole us": round(whole * 1e6, 1),
        "host us": round(host * 1e6, 1),
        "busy us": round(sum(e.device_time_total for e in events) / units, 1),
        "launches": round(sum(e.count for e in events) / units, 1),
        "kernels": kernels,
    }


def show(row: dict[str, Any]) -> None:
    numbers = ", ".join(f"{name} {row[name]}" for name in ("whole us", "host us", "busy us", "launches"))
    print(f"\n{row['family']}-{row['size']} {row['mode']}: {numbers}")
    for name, (microseconds, launches) in list(row["kernels"].items())[:14]:
        print(f"  {microseconds:9.1f} us {launches:6.1f} x  {name[:80]}")


if __name__ == "__main__":
    main()

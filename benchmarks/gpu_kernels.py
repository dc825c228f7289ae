"""Times variants of the Triton kernels on a GPU, at the shapes the official CUDA kernels were measured at. Correctness first.

    python benchmarks/gpu_kernels.py --json results.json [--only scan_backward,conv] [--workers 14]

Variants are compiled by several processes at once, then timed one by one in this one. The official times are those of
mamba-ssm 2.3.2.post1 and causal-conv1d 1.7.0 on one H100, in milliseconds; `x` is how many times faster a variant is.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from gpu_cases import DEVICE, _kept, variants
from gpu_checks import difference, large_check, long_check, self_checks, ssd_check

from anymamba.backends import machine


def compile_share(only: list[Any], share: int, of: int) -> None:
    """Runs every of-th variant once: its kernels are then in Triton's cache."""
    for index, (family, shape, name, _, run) in enumerate(variants(only)):
        if index % of == share:
            try:
                run()
                torch.cuda.synchronize()
            except Exception as error:  # noqa: BLE001 - the timing process reports it
                print(f"{family} {shape} {name}: {type(error).__name__}", file=sys.stderr)
                if "CUDA error" in str(error) or "misaligned" in str(error):
                    return


def median_ms(run: Callable[[], Any], budget_ms: float = 60.0) -> float:
    """Median of single calls timed by events, the second-level cache overwritten before each, launches queued ahead."""
    run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    once = (time.perf_counter() - start) * 1e3
    repeats = int(min(max(budget_ms / max(once, 1e-3), 10), 60))
    flush = torch.empty(128 * 2**20, dtype=torch.int8, device=DEVICE)
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for begin, end in pairs:
        # fills the queue, so that the host's part of a launch is hidden behind it
        for _ in range(12):
            flush.zero_()
        begin.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return sorted(begin.elapsed_time(end) for begin, end in pairs)[repeats // 2]


def kernel_times(run: Callable[[], Any], calls: int = 5) -> Any:
    """[name, microseconds] of each kernel of one call, in order, by the profiler."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(calls):
            run()
        torch.cuda.synchronize()
    kernels = sorted((e for e in found.events() if e.device_type == DeviceType.CUDA), key=lambda e: e.time_range.start)
    each = max(len(kernels) // calls, 1)
    times = [sum(e.time_range.elapsed_us() for e in kernels[i::each]) / calls for i in range(each)]
    return [[e.name[:60], round(us, 1)] for e, us in zip(kernels, times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default="gpu_kernels.json")
    parser.add_argument("--only", default="")
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--checks", default="self,scan,ssd,long", help="which checks to make first")
    parser.add_argument("--seconds", type=float, default=430, help="stop timing after this long")
    parser.add_argument(
        "--share", default=None, help="i/n: only compile every n-th variant (used by the worker processes)"
    )
    arguments = parser.parse_args()
    only = [name for name in arguments.only.split(",") if name]
    if arguments.share:
        compile_share(only, *(int(part) for part in arguments.share.split("/")))
        return
    begun = time.time()
    command = [sys.executable, __file__, "--only", arguments.only]
    workers = [subprocess.Popen([*command, "--share", f"{i}/{arguments.workers}"]) for i in range(arguments.workers)]
    document = {"date": datetime.date.today().isoformat(), "machine": machine.facts(), "rows": []}
    checks = {
        "self": ("self checks", self_checks),
        "scan": ("scan errors", large_check),
        "ssd": ("ssd errors", ssd_check),
        "long": ("long", long_check),
    }
    for name, check in (checks[wanted] for wanted in arguments.checks.split(",") if wanted):
        try:
            document[name] = check()
        except Exception as error:  # noqa: BLE001 - the timings are still worth having
            print(f"FAIL  {name}: {type(error).__name__}: {str(error)[:500]}")
    _kept.clear()
    torch.cuda.empty_cache()
    for worker in workers:
        worker.wait()
    print(f"compiled after {time.time() - begun:.0f} s", flush=True)
    source = torch.empty(2**31, dtype=torch.int8, device=DEVICE)
    copied = torch.empty_like(source)
    milliseconds = median_ms(lambda: copied.copy_(source))
    document["copy TB/s"] = round(2 * 2**31 / milliseconds / 1e9, 2)
    source = copied = None
    first: dict = {}
    first_ms: dict = {}
    fastest: dict = {}
    for family, shape, name, official, run in variants(only):
        if time.time() - begun > arguments.seconds:
            print("out of time")
            break
        try:
            result = [t.detach() for t in run() if t is not None]
            key = family, shape
            if key not in first:
                first.clear()
                first[key] = result
            error = difference(result, first[key])
            del result
            row = {
                "family": family,
                "shape": shape,
                "variant": name,
                "official ms": official,
                "ms": median_ms(run),
                "error": error,
            }
            if key not in fastest or row["ms"] < fastest[key]["ms"]:
                fastest[key] = row
                if row["ms"] < 0.9 * first_ms.setdefault(key, 2 * row["ms"]):
                    row["kernels us"] = kernel_times(run)
                    first_ms[key] = row["ms"]
        except Exception as failure:  # noqa: BLE001 - one variant must not end the run
            row = {
                "family": family,
                "shape": shape,
                "variant": name,
                "failed": f"{type(failure).__name__}: {failure}"[:300],
            }
        document["rows"].append(row)
        with open(arguments.json, "w") as file:
            json.dump(document, file, indent=1)
    report(document)
    print(f"copy {document['copy TB/s']} TB/s; {time.time() - begun:.0f} s in all")


def report(document: dict[str, Any]) -> None:
    """The rule's own choice, which comes first in the list, and the three best variants, by where they differ from it."""
    groups: dict = {}
    for row in document["rows"]:
        groups.setdefault((row["family"], row["shape"]), []).append(row)
    for (family, shape), rows in groups.items():
        failed = [row for row in rows if "failed" in row]
        timed = [row for row in rows if "ms" in row]
        print(
            f"\n{family} {shape}: {len(timed)} variants, {len(failed)} failed, worst error {max(r['error'] for r in timed):.0e}"
        )
        if failed:
            print(f"  failed {short(failed[0], rows[0])}: {failed[0]['failed'][:120]}")
        best = sorted(timed, key=lambda row: row["ms"])[:3]
        for mark, row in [("rule", timed[0]), *(("    ", row) for row in best)]:
            print(f"  {mark} {row['ms']:.4f} ms  x{row['official ms'] / row['ms']:.2f}  {short(row, rows[0])}")
        profiled = [row for row in timed if "kernels us" in row]
        for row in [*profiled[:1], *profiled[1:][-1:]]:
            times = ", ".join(f"{name[:28]} {us}" for name, us in row["kernels us"] if us >= 5)
            print(f"  {short(row, rows[0])}: {times}")


def short(row: dict[str, Any], base: dict[str, Any]) -> str:
    if row is base:
        return row["variant"]
    return " ".join(sorted(set(row["variant"].split()) - set(base["variant"].split()))) or "same"


if __name__ == "__main__":
    main()

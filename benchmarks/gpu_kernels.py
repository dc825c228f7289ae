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
from dataclasses import replace

import torch

from anymamba.backends import machine, selfcheck
from anymamba.backends.call import Call

SCAN_SHAPES = {  # batch, length, channels, states: official forward, backward
    "B8 L2048 D2048": ((8, 2048, 2048, 16), 0.590, 2.416),
    "B8 L2048 D5120": ((8, 2048, 5120, 16), 1.447, 6.039),
    "B1 L8192 D5120": ((1, 8192, 5120, 16), 0.924, 3.373),
    "B1 L2048 D1536": ((1, 2048, 1536, 16), 0.071, 0.302),
}
CONV_SHAPE = (8, 2048, 5120)
SSD_SHAPES = {  # batch, length, heads, headdim, states: official forward, backward
    "B8 L2048 H80": ((8, 2048, 80, 64, 128), 1.023, 4.153),
    "B1 L8192 H80": ((1, 8192, 80, 64, 128), 1.156, 4.759),
    "B8 L4096 H32": ((8, 4096, 32, 64, 128), 1.081, 4.192),
}
DEVICE = torch.device("cuda")


def scan_inputs(batch, length, channels, states, dtype=torch.bfloat16):
    def rows(width):
        return torch.randn(batch, length, width, device=DEVICE, dtype=dtype).transpose(1, 2)

    torch.manual_seed(0)
    return {
        "u": rows(channels),
        "delta": rows(channels),
        "A": -torch.rand(channels, states, device=DEVICE).mul(16).clamp_min(0.05),
        "B": rows(states),
        "C": rows(states),
        "D": torch.randn(channels, device=DEVICE),
        "z": rows(channels),
        "delta_bias": torch.randn(channels, device=DEVICE) * 0.5 - 4,
    }


_kept: dict = {}


def kept(key, make):
    """Inputs of the case at hand; those of the case before are dropped."""
    if key not in _kept:
        _kept.clear()
        torch.cuda.empty_cache()
        _kept[key] = make()
    return _kept[key]


def forward_variants():
    from anymamba.backends.triton import selective_scan as op
    from anymamba.backends.triton import selective_scan_cuda as in_cuda

    for shape, (sizes, official, _) in SCAN_SHAPES.items():
        batch, length, channels, states = sizes
        base = op.forward_plan(batch, channels, length, states, DEVICE)
        rule = in_cuda.forward_plan(batch, channels, DEVICE)
        plans = [rule, base]
        many = batch * channels >= 16384
        lanes = [(4, 4, 16), (4, 2, 16), (8, 2, 16), (2, 4, 16), (8, 1, 16), (4, 1, 32)] if many else []
        lanes += [(4, 4, 16), (4, 2, 16), (4, 1, 32), (2, 2, 32), (2, 1, 32), (1, 1, 32)] if not many else []
        for ns, nc, tile in lanes:
            for warps in (1, 4) if many else (1, 2):
                for unroll in (2, 4, 8) if warps == 1 else (4,):
                    plans.append(in_cuda.Plan(ns, nc, tile, warps, unroll))
            plans.append(in_cuda.Plan(ns, nc, tile // 2, 1, 4))
        for plan in dict.fromkeys(plans):

            def run(sizes=sizes, plan=plan, keep=False):
                given = kept(("scan", sizes), lambda: scan_inputs(*sizes))
                if isinstance(plan, op.Plan):
                    return op.scan_forward(*given.values(), True, False, keep, plan)[:1]
                return in_cuda.scan_forward(*given.values(), True, False, 16 if keep else 0, plan)[:1]

            yield "scan_forward", shape, describe(plan), official, run
        yield (
            "scan_forward", shape, "with checkpoints", official,
            lambda run=run, sizes=sizes, rule=rule: run(sizes, rule, True),
        )  # fmt: skip


def backward_variants():
    from anymamba.backends.triton import selective_scan as op
    from anymamba.backends.triton import selective_scan_cuda as in_cuda

    for shape, (sizes, _, official) in SCAN_SHAPES.items():
        batch, length, channels, states = sizes
        rule = in_cuda.backward_plan(batch, channels, length, DEVICE)
        plans = [rule, op.backward_plan(batch, channels, length, states, DEVICE)]
        many = batch * channels >= 16384
        for ns, nc, tile, window, warps, blocks in (
            (4, 2, 8, 16, 4, 1),
            (4, 2, 8, 16, 2, 1),
            (4, 2, 8, 16, 8, 1),
            (4, 2, 8, 8, 4, 1),
            (4, 2, 4, 16, 4, 3),
            (4, 2, 4, 16, 4, 1),
            (4, 1, 8, 16, 4, 1),
            (4, 1, 8, 16, 4, 3),
            (4, 1, 4, 16, 4, 4),
            (4, 1, 8, 32, 4, 1),
            (2, 2, 8, 32, 4, 1),
            (2, 2, 4, 16, 4, 4),
            (2, 4, 4, 16, 4, 3),
        ):
            for chunks in dict.fromkeys((1, 2, 3) if many else (1, rule.chunks, rule.chunks // 2, rule.chunks * 2)):
                if (ns, nc, tile, window, warps) != (4, 2, 8, 16, 4) and chunks != (1 if many else rule.chunks):
                    continue
                plans.append(in_cuda.Plan(ns, nc, tile, warps, window=window, chunks=chunks, blocks=blocks))
        for plan in dict.fromkeys(plans):

            def run(sizes=sizes, plan=plan):
                def make():
                    given = scan_inputs(*sizes)
                    dout = torch.randn(sizes[0], sizes[1], sizes[2], device=DEVICE, dtype=torch.bfloat16).transpose(1, 2)
                    return given, dout

                given, dout = kept(("scan backward", sizes), make)
                if isinstance(plan, op.Plan):
                    return op.scan_backward(dout, *given.values(), True, _checkpoint(op, given, plan.every), plan.every, plan)
                return in_cuda.scan_backward(dout, *given.values(), True, _checkpoint(op, given, plan.window), plan)

            yield "scan_backward", shape, describe(plan), official, run


def _checkpoint(op, given, every):
    key = "checkpoint", every, tuple(given["u"].shape)
    if _checkpoints.get("key") != key:
        batch, channels, length = given["u"].shape
        plan = replace(op.forward_plan(batch, channels, length, 16, DEVICE), every=every)
        _checkpoints.update(key=key, value=op.scan_forward(*given.values(), True, False, True, plan)[2])
    return _checkpoints["value"]


_checkpoints: dict = {}


def conv_variants():
    from anymamba.backends.triton import causal_conv1d as op

    batch, length, channels = CONV_SHAPE

    def make():
        torch.manual_seed(0)
        x, dout = (
            torch.randn(batch, length, channels, device=DEVICE, dtype=torch.bfloat16).transpose(1, 2) for _ in range(2)
        )
        return (
            x,
            dout,
            torch.randn(channels, 4, device=DEVICE, dtype=torch.bfloat16),
            torch.randn(channels, device=DEVICE, dtype=torch.bfloat16),
        )

    base = op.conv_plan(batch, channels, length, DEVICE)
    plans = [base]
    for block, warps in ((128, 1), (256, 2), (512, 4)):
        for stretch in (32, 64, 128):
            for tile in (4, 8):
                plans.append(op.Plan(block, stretch, tile, warps))
    for plan in dict.fromkeys(plans):

        def forward(plan=plan):
            x, _, weight, bias = kept("conv", make)
            return (op.conv_forward(x, weight, bias, None, None, True, plan),)

        def backward(plan=plan):
            x, dout, weight, bias = kept("conv", make)
            return op.conv_backward(dout, x, weight, bias, None, None, True, plan)[:3]

        yield "conv_forward", "B8 L2048 D5120 W4", describe(plan), 0.134, forward
        if plan.tile < 8:
            yield "conv_backward", "B8 L2048 D5120 W4", describe(plan), 0.334, backward


def norm_variants():
    from anymamba.backends.triton import norm, norm_gated, norm_rows

    def make():
        torch.manual_seed(0)
        return [torch.randn(16384, 2560, device=DEVICE, dtype=torch.bfloat16) for _ in range(3)] + [
            torch.randn(2560, device=DEVICE)
        ]

    def plain():
        x, residual, _, weight = kept("norm", make)
        return norm.rms_norm_fn(x, weight, None, residual, prenorm=True)

    def gated():
        x, z, _, weight = kept("norm", make)
        return (norm_gated.rmsnorm_fn(x, weight, None, z, norm_before_gate=False),)

    def backward(with_gate, warps, programs):
        x, other, dy, weight = kept("norm", make)
        scale = kept_scale(x)
        residual, z = (None, other) if with_gate else (other, None)
        return norm_rows.norm_backward(
            dy, None if with_gate else dy, x, residual, z, weight, None, None, scale, 2560, False, x.dtype,
            None, warps=warps, programs=programs,
        )[:4]  # fmt: skip

    def kept_scale(x):
        return torch.ones(x.shape[0], 1, device=DEVICE)

    bandwidth = 16384 * 2560 * 2 / 4.3e9  # milliseconds to move one such tensor at the copy rate of an H200
    yield "norm", "16384 x 2560 residual", "forward; x: copy rate", 4 * bandwidth, plain
    yield "norm", "16384 x 2560 gated", "forward; x: copy rate", 3 * bandwidth, gated
    for with_gate in (False, True):
        shape = "16384 x 2560 backward " + ("gated" if with_gate else "residual")
        for warps in (None, 2, 4, 8, 16):
            for programs in (None, 2, 8, 16):
                yield (
                    "norm", shape, f"warps={warps} programs={programs}; x: copy rate", 5 * bandwidth,
                    lambda g=with_gate, w=warps, p=programs: backward(g, w, p),
                )  # fmt: skip


def ssd_inputs(batch, length, heads, headdim, states, dtype=torch.bfloat16):
    """Views into one projection, as the model has them."""
    torch.manual_seed(0)
    wide = torch.randn(batch, length, heads * headdim + 2 * states, device=DEVICE, dtype=dtype)
    x, B, C = wide.split([heads * headdim, states, states], dim=2)
    return {
        "x": x.unflatten(2, (heads, headdim)),
        "dt": torch.randn(batch, length, heads, device=DEVICE, dtype=dtype),
        "A": -torch.rand(heads, device=DEVICE).mul(15).add(1),
        "B": B.unsqueeze(2),
        "C": C.unsqueeze(2),
        "D": torch.randn(heads, device=DEVICE),
        "z": None,
        "dt_bias": torch.randn(heads, device=DEVICE) * 0.5 - 4,
        "initial": None,
        "seq_idx": None,
    }


def ssd_forward_variants():
    from anymamba.backends.triton import ssd as op

    for shape, (sizes, official, _) in SSD_SHAPES.items():
        batch, length, heads, headdim, states = sizes
        base = op.forward_plan(batch, length, heads, heads, headdim, states, False, DEVICE)
        plans = [base]
        for q, warps in ((128, 8), (64, 4)):
            for together in (8, 16):
                for stages in (3, 4):
                    plans.append(replace(base, q=q, warps=warps, heads=together, stages=stages))
        for walk_p, walk_n, walk_warps, walk_stages in (
            (64, 128, 4, 2), (64, 128, 4, 3), (64, 128, 8, 2), (64, 64, 4, 3), (64, 32, 4, 3), (32, 64, 4, 3), (64, 64, 4, 4)
        ):  # fmt: skip
            plans.append(replace(base, walk_p=walk_p, walk_n=walk_n, walk_warps=walk_warps, walk_stages=walk_stages))
        for plan in dict.fromkeys(plans):

            def run(sizes=sizes, plan=plan):
                given = kept(("ssd", sizes), lambda: ssd_inputs(*sizes))
                return op.chunk_scan_forward(*given.values(), True, (0.0, float("inf")), False, False, plan)[:1]

            yield "ssd_forward", shape, describe(plan), official, run


def ssd_backward_variants():
    from anymamba.backends.triton import ssd as op

    for shape, (sizes, _, official) in SSD_SHAPES.items():
        batch, length, heads, headdim, states = sizes
        base = op.backward_plan(batch, length, heads, heads, headdim, states, False, DEVICE)
        plans = [base]
        for q, warps in ((32, 2), (32, 4), (32, 8), (64, 8)):
            for together in (4, 16, 40):
                for stages in (1, 2, 3):
                    if stages > 1 and (together != 16 or q == 64):
                        continue
                    plans.append(replace(base, q=q, warps=warps, heads=together, stages=stages))
        for walk_n in (32, 64, 128):
            for walk_stages in (2, 3, 4):
                plans.append(replace(base, walk_n=walk_n, walk_stages=walk_stages))
        for plan in dict.fromkeys(plans):

            def run(sizes=sizes, plan=plan):
                def make():
                    return ssd_inputs(*sizes), torch.randn(sizes[:4], device=DEVICE, dtype=torch.bfloat16)

                given, dout = kept(("ssd backward", sizes), make)
                return op.chunk_scan_backward(dout, None, *given.values(), None, True, (0.0, float("inf")), plan)

            yield "ssd_backward", shape, describe(plan), official, run


FAMILIES = {
    "scan_forward": forward_variants,
    "scan_backward": backward_variants,
    "ssd_backward": ssd_backward_variants,
    "ssd_forward": ssd_forward_variants,
    "conv": conv_variants,
    "norm": norm_variants,
}


def describe(plan):
    return " ".join(f"{name}={value}" for name, value in vars(plan).items())


def variants(only):
    for name, family in FAMILIES.items():
        if not only or name in only:
            yield from family()


def compile_share(only, share, of):
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


def median_ms(run, budget_ms=60.0):
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


def difference(got, want):
    """Largest relative Frobenius error over the outputs; NaN counts as infinite."""
    worst = 0.0
    for a, b in zip(got, want):
        if a is None:
            continue
        error = ((a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-30)).item()
        worst = max(worst, error if error == error else float("inf"))
    return worst


def self_checks():
    import importlib

    from anymamba.backends import triton as package

    rows = []
    for op, name in package.OPS.items():
        module = importlib.import_module(name) if importlib.util.find_spec(name) else None
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for grad in (False, True):
                if module is None or (grad and "update" in op):
                    continue
                ok, reason = selfcheck.run(module, Call(op, DEVICE, dtype, grad))
                rows.append({"op": op, "dtype": str(dtype), "grad": grad, "ok": ok, "reason": reason})
                print(("ok    " if ok else "FAIL  ") + f"{op} {dtype} grad={grad}: {reason}")
    return rows


def kernel_times(run):
    """Microseconds of each kernel of one call, by the profiler."""
    from torch.profiler import ProfilerActivity, profile

    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(5):
            run()
        torch.cuda.synchronize()
    return {e.key[:60]: round(e.device_time_total / 5, 1) for e in found.key_averages() if e.device_time_total}


def ssd_check():
    """As large_check, for the Mamba-2 scan."""
    from anymamba.backends.torch.ssd import mamba_chunk_scan_combined as exact
    from anymamba.backends.triton.ssd import mamba_chunk_scan_combined as ours

    given = {k: v for k, v in ssd_inputs(2, 1000, 8, 64, 128).items() if v is not None}
    given["z"] = torch.randn_like(given["x"])
    given["initial_states"] = torch.randn(2, 8, 64, 128, device=DEVICE)
    seq_idx = (torch.arange(1000, device=DEVICE) // 300).int()[None].repeat(2, 1)
    seq_idx[0, 500:520] = -1
    errors = {}
    results = []
    for function, dtype in ((exact, torch.float64), (exact, None), (ours, None), (ours, None)):
        inputs = {k: (v.to(dtype) if dtype else v).detach().requires_grad_() for k, v in given.items()}
        out, final = function(**inputs, chunk_size=256, dt_softplus=True, seq_idx=seq_idx, return_final_states=True)
        torch.manual_seed(1)
        cotangents = [torch.randn(t.shape, device=DEVICE, dtype=torch.float64).to(t.dtype) for t in (out, final)]
        gradients = torch.autograd.grad([out, final], list(inputs.values()), cotangents)
        results.append([out.detach(), final.detach(), *gradients])
    for index, name in enumerate(["out", "final", *given]):
        want = results[0][index].double()
        plain, mine = (((r[index].double() - want).norm() / want.norm()).item() for r in results[1:3])
        errors[name] = {"plain torch": plain, "triton": mine}
        print(f"{'ok  ' if mine <= 1e-2 else 'FAIL'}  ssd {name}: triton {mine:.2e}, plain torch {plain:.2e}")
    errors["deterministic"] = all(torch.equal(a, b) for a, b in zip(results[2], results[3]))
    print(f"{'ok  ' if errors['deterministic'] else 'FAIL'}  ssd: two runs, the same bits")
    return errors


def long_check():
    """Offsets past 2**31: the end of a long sequence against the same steps alone, long after the start has faded."""
    from anymamba.backends.triton import causal_conv1d as conv
    from anymamba.backends.triton import selective_scan as op
    from anymamba.backends.triton import selective_scan_cuda as in_cuda
    from anymamba.backends.triton import ssd

    found = {}
    tail = 65536

    def note(name, whole, part):
        found[name] = difference([whole[..., -4096:]], [part[..., -4096:]])
        print(f"{'ok  ' if found[name] < 1e-3 else 'FAIL'}  long {name}: {found[name]:.0e}")

    given = scan_inputs(1, 2**20, 2304, 16)
    part = {k: (v[..., -tail:] if v is not None and k in ("u", "delta", "B", "C", "z") else v) for k, v in given.items()}
    for name, run in {
        "scan, CUDA": lambda x: in_cuda.scan_forward(*x.values(), True, False, 0, in_cuda.forward_plan(1, 2304, DEVICE))[0],
        "scan, Triton": lambda x: op.scan_forward(
            *x.values(), True, False, False, op.forward_plan(1, 2304, x["u"].shape[2], 16, DEVICE)
        )[0],
        "conv": lambda x: conv.causal_conv1d_fn(x["u"], torch.ones(2304, 4, device=DEVICE, dtype=torch.bfloat16)),
    }.items():
        note(name, run(given), run(part))
    given = part = None
    given = ssd_inputs(1, 2**20, 40, 64, 128)
    part = {k: (v[:, -tail:] if v is not None and k in ("x", "dt", "B", "C") else v) for k, v in given.items()}

    def scan(x):
        return ssd.mamba_chunk_scan_combined(
            x["x"], x["dt"], x["A"], x["B"], x["C"], 256, D=x["D"], dt_bias=x["dt_bias"], dt_softplus=True
        ).movedim(1, -1)

    note("ssd", scan(given), scan(part))
    return found


def large_check():
    """The scan against plain PyTorch in float64, bf16 inputs, at a size with many programs: relative Frobenius errors."""
    from anymamba.backends.torch.selective_scan import selective_scan_fn as exact
    from anymamba.backends.triton.selective_scan import selective_scan_fn as ours

    given = scan_inputs(2, 1000, 1000, 16)
    errors = {}
    results = []
    for function, dtype in ((exact, torch.float64), (exact, None), (ours, None)):
        inputs = {k: (v.to(dtype) if dtype else v).detach().requires_grad_() for k, v in given.items()}
        out = function(**inputs, delta_softplus=True)
        torch.manual_seed(1)
        gradients = torch.autograd.grad(
            out, list(inputs.values()), torch.randn(out.shape, device=DEVICE, dtype=torch.float64).to(out.dtype)
        )
        results.append([out.detach(), *gradients])
    for index, name in enumerate(["out", *given]):
        want = results[0][index].double()
        plain, mine = (((r[index].double() - want).norm() / want.norm()).item() for r in results[1:])
        errors[name] = {"plain torch": plain, "triton": mine}
        print(
            f"{'ok  ' if mine <= 2 * plain + 1e-6 else 'FAIL'}  scan {name}: triton {mine:.2e}, plain torch {plain:.2e}"
        )
    first = results[2]
    for _ in range(10):
        inputs = {k: v.detach().requires_grad_() for k, v in given.items()}
        out = ours(**inputs, delta_softplus=True)
        torch.manual_seed(1)
        gradients = torch.autograd.grad(
            out, list(inputs.values()), torch.randn(out.shape, device=DEVICE, dtype=torch.float64).to(out.dtype)
        )
        same = all(torch.equal(a, b) for a, b in zip(first, [out, *gradients]))
        if not same:
            print("FAIL  scan is not deterministic")
            errors["deterministic"] = False
            break
    else:
        print("ok    scan: ten runs, the same bits")
        errors["deterministic"] = True
    return errors


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default="gpu_kernels.json")
    parser.add_argument("--only", default="")
    parser.add_argument("--workers", type=int, default=12)
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
    document["self checks"] = self_checks()
    for name, check in (("scan errors", large_check), ("ssd errors", ssd_check), ("long", long_check)):
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


def report(document):
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
        times = sorted(profiled[-1]["kernels us"].items(), key=lambda item: -item[1])[:5] if profiled else []
        print("  " + ", ".join(f"{name[:28]} {us}" for name, us in times))


def short(row, base):
    if row is base:
        return row["variant"]
    return " ".join(sorted(set(row["variant"].split()) - set(base["variant"].split()))) or "same"


if __name__ == "__main__":
    main()

"""Correctness on the GPU, before gpu_kernels.py times anything."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from gpu_cases import DEVICE, SSD_BACKWARD_CHANGES, scan_inputs, ssd_inputs

import anymamba.ops  # noqa: F401 - it registers the specs
from anymamba.backends import selfcheck
from anymamba.backends.call import Call


def self_checks() -> Any:
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


def ssd_check() -> Any:
    """As large_check, for the Mamba-2 scan and every way of its backward."""
    from anymamba.backends.torch.ssd import mamba_chunk_scan_combined as exact
    from anymamba.backends.triton.ssd import ssd

    given = {k: v for k, v in ssd_inputs(2, 1000, 8, 64, 128).items() if v is not None}
    given["z"] = torch.randn_like(given["x"])
    given["initial_states"] = torch.randn(2, 8, 64, 128, device=DEVICE)
    seq_idx = (torch.arange(1000, device=DEVICE) // 300).int()[None].repeat(2, 1)
    seq_idx[0, 500:520] = -1

    def run(function: Callable[..., Any], dtype: torch.dtype | None) -> Any:
        inputs = {k: (v.to(dtype) if dtype else v).detach().requires_grad_() for k, v in given.items()}
        out, final = function(**inputs, chunk_size=256, dt_softplus=True, seq_idx=seq_idx, return_final_states=True)
        torch.manual_seed(1)
        cotangents = [torch.randn(t.shape, device=DEVICE, dtype=torch.float64).to(t.dtype) for t in (out, final)]
        return [out.detach(), final.detach(), *torch.autograd.grad([out, final], list(inputs.values()), cotangents)]

    want = [t.double() for t in run(exact, torch.float64)]
    plain = [((got - t).norm() / t.norm()).item() for got, t in zip(run(exact, None), want)]
    rule = ssd.backward_plan
    errors = {}
    for change in SSD_BACKWARD_CHANGES:
        ssd.backward_plan = lambda *sizes, change=change: replace(rule(*sizes), **change)
        try:
            results = [run(ssd.mamba_chunk_scan_combined, None) for _ in range(2)]
        finally:
            ssd.backward_plan = rule
        for name, got, error, t in zip(["out", "final", *given], results[0], plain, want):
            mine = ((got - t).norm() / t.norm()).item()
            errors[f"{name} {change}"] = {"plain torch": error, "triton": mine}
            print(f"{'ok  ' if mine <= 2 * error + 1e-6 else 'FAIL'}  ssd {change} {name}: triton {mine:.2e}, plain torch {error:.2e}")
        same = errors[f"deterministic {change}"] = all(torch.equal(a, b) for a, b in zip(*results))
        print(f"{'ok  ' if same else 'FAIL'}  ssd {change}: two runs, the same bits")
    return errors


def long_check() -> Any:
    """Offsets past 2**31: the end of a long sequence against the same steps alone, long after the start has faded."""
    from anymamba.backends.cuda import selective_scan_launch as in_cuda
    from anymamba.backends.triton.conv import causal_conv1d as conv
    from anymamba.backends.triton.scan import selective_scan as op
    from anymamba.backends.triton.ssd import ssd

    found = {}
    tail = 65536

    def note(name: str, whole: Any, part: Any) -> None:
        found[name] = difference([whole[..., -4096:]], [part[..., -4096:]])
        print(f"{'ok  ' if found[name] < 1e-3 else 'FAIL'}  long {name}: {found[name]:.0e}")

    given = scan_inputs(1, 2**20, 2304, 16)
    part = {k: (v[..., -tail:] if v is not None and k in ("u", "delta", "B", "C", "z") else v) for k, v in given.items()}
    for name, run in {
        "scan, CUDA": lambda x: in_cuda.scan_forward(
            *x.values(), True, False, 0, in_cuda.forward_plan(1, 2304, x["u"].shape[2], DEVICE)
        )[0],
        "scan, Triton": lambda x: op.scan_forward(
            *x.values(), True, False, False, op.forward_plan(1, 2304, x["u"].shape[2], 16, DEVICE)
        )[0],
        "conv": lambda x: conv.causal_conv1d_fn(x["u"], torch.ones(2304, 4, device=DEVICE, dtype=torch.bfloat16)),
    }.items():
        note(name, run(given), run(part))
    given = part = None
    given = ssd_inputs(1, 2**20, 40, 64, 128)
    part = {k: (v[:, -tail:] if v is not None and k in ("x", "dt", "B", "C") else v) for k, v in given.items()}

    def scan(x: Any) -> Any:
        return ssd.mamba_chunk_scan_combined(
            x["x"], x["dt"], x["A"], x["B"], x["C"], 256, D=x["D"], dt_bias=x["dt_bias"], dt_softplus=True
        ).movedim(1, -1)

    note("ssd", scan(given), scan(part))
    return found


def large_check() -> Any:
    """The scan against plain PyTorch in float64, bf16 inputs, at a size with many programs: relative Frobenius errors."""
    from anymamba.backends.cuda.selective_scan import selective_scan_fn as ours
    from anymamba.backends.torch.selective_scan import selective_scan_fn as exact

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
        errors[name] = {"plain torch": plain, "cuda": mine}
        print(
            f"{'ok  ' if mine <= 2 * plain + 1e-6 else 'FAIL'}  scan {name}: cuda {mine:.2e}, plain torch {plain:.2e}"
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


def difference(got: Any, want: Any) -> float:
    """Largest relative Frobenius error over the outputs; NaN counts as infinite."""
    worst = 0.0
    for a, b in zip(got, want):
        if a is None:
            continue
        error = ((a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-30)).item()
        worst = max(worst, error if error == error else float("inf"))
    return worst

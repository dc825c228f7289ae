"""The bench that looks for slow corners: a grid over layouts, dtypes and sizes, each cell beside the installed official package, in one
process, worst cell first. The public functions are called, so what Python and launching cost counts."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anymamba.bench import peers
from anymamba.errors import AnymambaError
from anymamba.language import _

RUNS = 9
"""Of which the median counts; ours and theirs take turns."""
COST_CALLS = 200

Tensors = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """op: its public name. build: makes the tensors, on the device; without gradients. options: the other arguments. host: what the call
    costs the host is measured, on tensors too small to matter."""

    op: str
    name: str
    build: Callable[[torch.device], Tensors]
    options: tuple[tuple[str, Any], ...] = ()
    host: bool = False


def scan_inputs(batch: int, channels: int, length: int, states: int, groups: int, dtype: torch.dtype, layout: str, z: bool) -> Any:
    def build(device: torch.device) -> Tensors:
        generator = torch.Generator(device).manual_seed(0)

        def random(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device, dtype=dtype)

        def rows(*width: int) -> Tensor:
            return random(batch, *width, length) if layout == "length" else random(batch, length, *width).movedim(1, -1)

        B, C = (rows(states) if groups == 1 else rows(groups, states) for _ in range(2))
        A = -torch.rand(channels, states, generator=generator, device=device).mul(16).clamp_min(0.05)
        D, bias = random(channels, dtype=torch.float32), random(channels, dtype=torch.float32) * 0.5 - 4
        tensors = {"u": rows(channels), "delta": rows(channels), "A": A, "B": B, "C": C, "D": D, "delta_bias": bias}
        return {**tensors, "z": rows(channels)} if z else tensors

    return build


def conv_inputs(batch: int, channels: int, length: int, width: int, dtype: torch.dtype, layout: str) -> Any:
    def build(device: torch.device) -> Tensors:
        x = torch.randn(batch, channels, length, device=device, dtype=dtype)
        x = x if layout == "length" else x.mT.contiguous().mT
        weight, bias = (torch.randn(*shape, device=device, dtype=dtype) for shape in ((channels, width), (channels,)))
        return {"x": x, "weight": weight, "bias": bias}

    return build


def ssd_inputs(batch: int, length: int, heads: int, headdim: int, states: int, groups: int, dtype: torch.dtype, z: bool) -> Any:
    def build(device: torch.device) -> Tensors:
        def random(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.randn(*shape, device=device, dtype=dtype)

        tensors = {
            "x": random(batch, length, heads, headdim), "dt": random(batch, length, heads),
            "A": -torch.rand(heads, device=device) * 15 - 1, "B": random(batch, length, groups, states),
            "C": random(batch, length, groups, states), "D": random(heads, dtype=torch.float32),
            "dt_bias": random(heads, dtype=torch.float32) * 0.5 - 4,
        }  # fmt: skip
        return {**tensors, "z": random(batch, length, heads, headdim)} if z else tensors

    return build


_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_SCAN_SHAPES = (
    # batch, channels, length, groups, z
    (8, 2048, 2048, 1, True),
    (1, 1536, 2048, 1, True),
    (64, 1536, 196, 4, False),
    (2, 1000, 1001, 1, True),
    (2, 512, 1024, 64, False),
)


def cells() -> Iterator[Cell]:
    """Of all ops, in no order of importance."""
    scan = (("delta_softplus", True),)
    sizes = [(shape, states) for shape in _SCAN_SHAPES for states in (1, 8, 16, 64)]
    sizes += [((8, 5120, 2048, 1, True), 16), ((1, 5120, 8192, 1, True), 16), ((2, 300, 500, 1, True), 24), ((1, 512, 2048, 1, True), 256)]
    for ((batch, channels, length, groups, z), states), layout, dtype in itertools.product(sizes, ("length", "channels"), _NAMES):
        if dtype == torch.float16 and (states != 16 or layout == "channels") and groups != 4:
            continue
        if layout == "channels" and dtype == torch.float32 and states not in (1, 16):
            continue
        name = f"scan B{batch} D{channels} L{length} N{states} G{groups}{' z' if z else ''} {_NAMES[dtype]}, {layout} contiguous"
        yield Cell("selective_scan_fn", name, scan_inputs(batch, channels, length, states, groups, dtype, layout, z), scan)
    conv = (("activation", "silu"),)
    for shape, width, layout, dtype in itertools.product(
        ((8, 5120, 2048), (1, 1536, 2048)), (2, 3, 4), ("channels", "length"), (torch.bfloat16, torch.float32)
    ):
        if width == 4 or dtype == torch.bfloat16:
            name = f"conv B{shape[0]} D{shape[1]} L{shape[2]} W{width} {_NAMES[dtype]}, {layout} contiguous"
            yield Cell("causal_conv1d_fn", name, conv_inputs(*shape, width, dtype, layout), conv)
    ssd = (("chunk_size", 256), ("dt_softplus", True))
    for (batch, length, heads, headdim, states, groups), z in itertools.product(
        ((8, 2048, 80, 64, 128, 1), (1, 8192, 80, 64, 128, 1), (8, 2048, 24, 64, 64, 8)), (True, False)
    ):
        name = f"ssd B{batch} L{length} H{heads} P{headdim} N{states} G{groups}{' z' if z else ''} bf16"
        build = ssd_inputs(batch, length, heads, headdim, states, groups, torch.bfloat16, z)
        yield Cell("mamba_chunk_scan_combined", name, build, ssd)
    small = torch.bfloat16
    yield Cell("selective_scan_fn", "cost of a call: scan", scan_inputs(1, 16, 16, 16, 1, small, "length", True), scan, True)
    yield Cell("causal_conv1d_fn", "cost of a call: conv", conv_inputs(1, 16, 16, 4, small, "length"), conv, True)
    yield Cell("mamba_chunk_scan_combined", "cost of a call: ssd", ssd_inputs(1, 64, 2, 16, 16, 1, small, False), ssd, True)


def official(op: str) -> Callable[..., Any]:
    """The official function. Raises ImportError, and AnymambaError where ``import mamba_ssm`` finds ours."""
    if op == "selective_scan_fn":
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn as function
    elif op == "causal_conv1d_fn":
        from causal_conv1d import causal_conv1d_fn as function
    else:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined as function
    if function.__module__.startswith("anymamba") or getattr(function, "__wrapped__", None) is not None:
        raise AnymambaError(
            "bench",
            _("the drop-in stands in for the official packages here"),
            fix=_("run the bench without `anymamba dropin`"),
        )
    return function


def kind(cell: Cell) -> str:
    """Cells of a kind share what makes them fast or slow, and a budget of time."""
    return "host" if cell.host else f"{cell.op}, {cell.name.rpartition(', ')[2]}" if ", " in cell.name else cell.op


def in_turns(chosen: list[Cell], clock: Callable[[], float]) -> Iterator[Cell]:
    """All cells; next always one of the kind that has had the least time, so that whenever time is up every kind has a sample. The official
    SSD tunes its kernels for minutes."""
    waiting: dict[str, list[Cell]] = {}
    for cell in chosen:
        waiting.setdefault(kind(cell), []).append(cell)
    spent = dict.fromkeys(waiting, 0.0)
    while waiting:
        turn = min(waiting, key=lambda name: spent[name])
        started = clock()
        yield waiting[turn].pop(0)
        spent[turn] += clock() - started
        if not waiting[turn]:
            del waiting[turn]


def measure(
    chosen: list[Cell], device: torch.device, progress: Callable[[str], None], minutes: float | None = None
) -> list[dict[str, Any]]:
    """One row a cell and direction, worst ratio first, cells that failed or have no peer at the end. Times in milliseconds, of cells with
    ``host`` in microseconds. minutes: after which no further cell is begun. progress: told of each cell, and of each row as JSON, so that
    what was measured outlives a process that is ended."""
    from anymamba import ops

    until = None if minutes is None else time.monotonic() + 60 * minutes
    rows: list[dict[str, Any]] = []
    for cell in in_turns(chosen, time.monotonic):
        if until is not None and time.monotonic() > until:
            break
        progress(cell.name)
        functions = {"ours": getattr(ops, cell.op)}
        missing = None
        try:
            functions["official"] = official(cell.op)
        except (ImportError, OSError, AnymambaError) as error:
            missing = f"{type(error).__name__}: {error}".splitlines()[0]
        of_cell = _rows(cell, functions, device, missing)
        for row in of_cell:
            progress(json.dumps(row))
        rows += of_cell
        torch.cuda.empty_cache()
    return sorted(rows, key=lambda row: row.get("ratio", float("inf")))


def _rows(cell: Cell, functions: dict[str, Callable[..., Any]], device: torch.device, missing: str | None) -> list[dict[str, Any]]:
    tensors, options = cell.build(device), dict(cell.options)
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    forward, backward, failed = {}, {}, {}
    for who, function in functions.items():
        try:
            with torch.no_grad():
                function(**tensors, **options)
            out = function(**leaves, **options)
            dout = torch.randn(out.shape, device=device, dtype=out.dtype)
            torch.autograd.grad(out, list(leaves.values()), dout)
        except Exception as error:  # noqa: BLE001 - whatever a package raises on a cell is that cell's result
            failed[who] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        forward[who] = _without_gradients(function, tensors, options)
        if cell.host:
            backward[who] = _both(function, leaves, options, dout)
        else:
            out = function(**leaves, **options)  # its graph serves every backward
            backward[who] = _gradients(out, list(leaves.values()), dout)
    rows = []
    for direction, contenders in (("forward", forward), ("forward and backward" if cell.host else "backward", backward)):
        times = {who: _host_cost(run) for who, run in contenders.items()} if cell.host else _device_times(contenders, device)
        row: dict[str, Any] = {"cell": cell.name, "direction": direction, "unit": "us" if cell.host else "ms", **times}
        if len(times) == 2:
            row["ratio"] = times["official"] / times["ours"]
        if failed or missing:
            row["failed"] = {**failed, **({"official": missing} if missing else {})}
        rows.append(row)
    return rows


def _without_gradients(function: Callable[..., Any], tensors: Tensors, options: Tensors) -> Callable[[], Any]:
    def run() -> Any:
        with torch.no_grad():
            return function(**tensors, **options)

    return run


def _both(function: Callable[..., Any], leaves: Tensors, options: Tensors, dout: Tensor) -> Callable[[], Any]:
    return lambda: torch.autograd.grad(function(**leaves, **options), list(leaves.values()), dout)


def _gradients(out: Tensor, leaves: list[Tensor], dout: Tensor) -> Callable[[], Any]:
    return lambda: torch.autograd.grad(out, leaves, dout, retain_graph=True)


def _device_times(contenders: dict[str, Callable[[], Any]], device: torch.device) -> dict[str, float]:
    """Medians in milliseconds between two events, after the second-level cache was overwritten, in turns."""
    flush = torch.empty(256 * 2**20, dtype=torch.int8, device=device)
    samples: dict[str, list[float]] = {who: [] for who in contenders}
    for __ in range(RUNS):
        for who, run in contenders.items():
            flush.zero_()
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            run()
            after.record()
            torch.cuda.synchronize(device)
            samples[who].append(before.elapsed_time(after))
    return {who: statistics.median(values) for who, values in samples.items()}


def _host_cost(run: Callable[[], Any]) -> float:
    """Microseconds of a call, the device being done long before: the best of five rounds, for a host is disturbed by others."""
    best = float("inf")
    for __ in range(5):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for __ in range(COST_CALLS):
            run()
        best = min(best, (time.perf_counter() - started) / COST_CALLS)
    return best * 1e6


def document(rows: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """With the machine, the versions and the date; the geometric mean over cells on the device."""
    from datetime import datetime, timezone

    ratios = [row["ratio"] for row in rows if "ratio" in row and row["unit"] == "ms"]
    return {
        "matrix": rows, "cells": len(ratios), "geometric_mean": statistics.geometric_mean(ratios) if ratios else None,
        "slower": sum(ratio < 1 for ratio in ratios), "device": torch.cuda.get_device_name(device), "versions": peers.versions(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }  # fmt: skip

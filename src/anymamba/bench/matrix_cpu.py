"""``bench --matrix`` on a processor: a grid over layouts, dtypes and sizes, each cell beside plain PyTorch, transformers' own path and
mambapy, in one process and in turns, worst cell first. The public functions are called, so what Python and the dispatcher cost counts."""

from __future__ import annotations

import contextlib
import functools
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from anymamba.backends import machine
from anymamba.backends.opspec import spec_of
from anymamba.bench import peers, timing
from anymamba.bench.cases import op_cases
from anymamba.language import _

TORCH = "torch"
"""The backend of that name: plain PyTorch, what runs where nothing can be compiled."""

EFFORT = timing.Effort(seconds=0.1, least=7, most=60, patience=0.25)
"""Whoever takes longer than a quarter of a second for a cell is called once: that is many times what the fastest takes."""


@dataclass(frozen=True)
class Cell:
    """op: its public name. sizes: of the inputs that its spec builds. backward: whether gradients are computed as well."""

    op: str
    name: str
    sizes: Mapping[str, Any] = field(hash=False)
    dtype: torch.dtype = torch.float32
    backward: bool = False


_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def cells() -> Iterator[Cell]:
    """Of all ops, in no order of importance."""
    for op, shape, sizes in itertools.chain(_scans(), _convolutions(), _ssd(), _norms(), _steps()):
        for dtype, backward in itertools.product(_NAMES, (False, True)):
            if backward and not spec_of(op).differentiable:
                continue
            name = f"{op} {shape} {_NAMES[dtype]}, {'forward and backward' if backward else 'forward'}"
            yield Cell(op, name, sizes, dtype, backward)


_Sizes = Iterator[tuple[str, str, dict[str, Any]]]


def _scans() -> _Sizes:
    shapes = ((1, 1536, 512, 16, 0), (1, 768, 256, 64, 0), (4, 384, 196, 1, 4), (3, 100, 101, 5, 0), (1, 16, 16, 16, 0))
    for (batch, dim, length, states, groups), layout in itertools.product(shapes, ("channels", "length")):
        sizes = {"batch": batch, "dim": dim, "length": length, "d_state": states, "ngroups": groups, "layout": layout}
        yield "selective_scan_fn", f"B{batch} D{dim} L{length} N{states} G{groups or 1}, {layout} contiguous", sizes


def _convolutions() -> _Sizes:
    shapes = ((1, 1536, 512, 4), (4, 384, 196, 3), (3, 100, 101, 2), (1, 16, 16, 4))
    for (batch, dim, length, width), layout in itertools.product(shapes, ("channels", "length")):
        sizes = {"batch": batch, "dim": dim, "length": length, "width": width, "layout": layout}
        yield "causal_conv1d_fn", f"B{batch} D{dim} L{length} W{width}, {layout} contiguous", sizes


def _ssd() -> _Sizes:
    shapes = ((1, 512, 24, 64, 1, 128, 256), (2, 257, 8, 64, 2, 64, 64), (1, 100, 5, 16, 1, 16, 32))
    for (batch, length, heads, headdim, groups, states, chunk), gate in itertools.product(shapes, (True, False)):
        sizes: dict[str, Any] = {
            "batch": batch, "length": length, "nheads": heads, "headdim": headdim, "ngroups": groups, "d_state": states,
            "chunk_size": chunk, "return_final_states": False, "without": ("initial_states",) + (() if gate else ("z",)),
        }  # fmt: skip
        name = f"B{batch} L{length} H{heads} P{headdim} N{states} G{groups}{' z' if gate else ''}"
        yield "mamba_chunk_scan_combined", name, sizes


def _norms() -> _Sizes:
    for batch, length, dim in ((1, 512, 768), (4, 196, 384), (1, 1, 768)):
        shape = batch, length, dim
        yield "rms_norm_fn", f"B{batch} L{length} D{dim}, residual", {"shape": shape}
        yield "layer_norm_fn", f"B{batch} L{length} D{dim}, no residual", {"shape": shape, "given": ()}
        yield "rmsnorm_fn", f"B{batch} L{length} D{dim}, gate", {"shape": shape}


def _steps() -> _Sizes:
    for batch, heads, headdim, states in ((1, 0, 1536, 16), (8, 0, 1536, 16), (1, 24, 64, 128)):
        sizes = {"batch": batch, "nheads": heads, "headdim": headdim, "ngroups": int(heads > 0), "d_state": states}
        yield "selective_state_update", f"B{batch} H{heads} P{headdim} N{states}", sizes
    for batch, dim in ((1, 1536), (8, 1792)):
        yield "causal_conv1d_update", f"B{batch} D{dim} W4", {"batch": batch, "dim": dim}


def measure(chosen: list[Cell], backend: str | None, progress: Callable[[str], None]) -> list[dict[str, Any]]:
    """One row a cell, the worst ratio first, cells that failed at the end. Medians in milliseconds, low: the fastest runs; ratio: the
    median of the fastest of the others to ours; ratio_fastest: the same of the fastest runs, which a busy machine disturbs least."""
    rows = []
    for cell in chosen:
        progress(cell.name)
        rows.append(_row(cell, backend))
    return sorted(rows, key=lambda row: row.get("ratio", float("inf")))


def _row(cell: Cell, backend: str | None) -> dict[str, Any]:
    spec, cpu = spec_of(cell.op), torch.device("cpu")
    given = op_cases.tensors_of(spec, cell.sizes, cpu, cell.dtype, 0)
    functions: dict[str, Any] = {
        "ours": functools.partial(spec.function, backend=backend), TORCH: functools.partial(spec.function, backend="torch"),
        **peers.of_op(cell.op, cpu),
    }  # fmt: skip
    mode = "forward+backward" if cell.backward else "forward"
    runs, left_out = {}, {}
    slow = peers.slow(cpu, cell.op == "selective_scan_fn", cell.backward)
    for who, function in functions.items():
        if isinstance(function, str):
            left_out[who] = function
        elif who in slow:
            left_out[who] = _("its backward pass takes minutes")
        else:
            runs[who] = _deferred(function, given, spec, mode)
    with contextlib.suppress(Exception):  # what fails here fails again when it is timed, and is told there
        runs["ours"]()  # kernels are compiled and checked at their first call, once a machine
    times = timing.measure(runs, cpu, EFFORT, left_out)
    row: dict[str, Any] = {"cell": cell.name, "unit": "ms", **{who: spread.median * 1e3 for who, spread in times.items()}}
    others = {who: time for who, time in row.items() if who in times and who != "ours"}
    if "ours" in times and others:
        row["fastest"] = min(others, key=lambda who: others[who])
        row["ratio"] = others[row["fastest"]] / row["ours"]
        row["low"] = {who: spread.low * 1e3 for who, spread in times.items()}
        row["ratio_fastest"] = min(row["low"][who] for who in others) / row["low"]["ours"]
    return {**row, "left_out": left_out} if left_out else row


def _deferred(function: Callable[..., Any], given: Any, spec: Any, mode: str) -> Callable[[], Any]:
    """The contender is made in its first call, whose failure is the cell's result and ends nothing else."""
    made: list[Callable[[], Any]] = []

    def run() -> Any:
        if not made:
            made.append(op_cases.contender(function, given, spec, mode).run)
        return made[0]()

    return run


def document(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """With the machine, the versions and the date; the geometric mean over the cells."""
    from datetime import datetime, timezone

    ratios = {name: [row[name] for row in rows if name in row] for name in ("ratio", "ratio_fastest")}
    return {
        "matrix": rows, "cells": len(ratios["ratio"]), "machine": machine.facts(), "versions": peers.versions(),
        "geometric_mean": {name: statistics.geometric_mean(values) if values else None for name, values in ratios.items()},
        "slower": {name: sum(ratio < 1 for ratio in values) for name, values in ratios.items()},
        "date": datetime.now(timezone.utc).date().isoformat(),
    }  # fmt: skip

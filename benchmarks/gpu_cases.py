"""Shapes, inputs and variants that gpu_kernels.py times. A family's first variant of a shape is the one that the rule picks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import anymamba.ops  # noqa: F401 - it registers the specs
from anymamba.backends.call import Call
from anymamba.backends.opspec import SPECS
from anymamba.backends.probes import as_given


def official_shapes(op: str) -> dict[str, Any]:
    """Of the op's spec: name -> sizes, official forward and backward milliseconds."""
    return {bench.name: (bench.sizes, *bench.official) for bench in SPECS[op].bench if bench.official}


SCAN_SHAPES = {
    name: ((sizes["batch"], sizes["length"], sizes["dim"], 16), *times)
    for name, (sizes, *times) in official_shapes("selective_scan_fn").items()
}
"""batch, length, channels, states: official forward, backward"""
CONV_SHAPE = (8, 2048, 5120)
CONV_TIMES = {sizes["layout"]: times for sizes, *times in official_shapes("causal_conv1d_fn").values()}
SSD_SHAPES = {
    name: (tuple(sizes[size] for size in ("batch", "length", "nheads", "headdim", "d_state")), *times)
    for name, (sizes, *times) in official_shapes("mamba_chunk_scan_combined").items()
}
"""batch, length, heads, headdim, states: official forward, backward"""
DEVICE = torch.device("cuda")


def made(op: str, dtype: torch.dtype, **sizes: Any) -> dict[str, Any]:
    """Inputs of the op as its spec makes them, on the GPU: the tensors alone, by name."""
    spec, call = SPECS[op], Call(op, DEVICE, dtype)
    generator = torch.Generator(DEVICE).manual_seed(0)
    arguments = spec.build(**sizes)(lambda *shape: torch.randn(shape, generator=generator, device=DEVICE))
    return {name: as_given(name, value, spec, call) for name, value in arguments.items() if isinstance(value, torch.Tensor)}


def scan_inputs(batch: int, length: int, channels: int, states: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    return made("selective_scan_fn", dtype, batch=batch, length=length, dim=channels, d_state=states, dt=-4.0, fresh=True)


_kept: dict = {}


def kept(key: Any, make: Callable[[], Any]) -> Any:
    """Inputs of the case at hand; those of the case before are dropped."""
    if key not in _kept:
        _kept.clear()
        torch.cuda.empty_cache()
        _kept[key] = make()
    return _kept[key]


SPLIT = [(2, 3, 64, 8, 1), (2, 3, 128, 8, 1), (2, 3, 32, 4, 1), (2, 4, 64, 8, 1), (2, 4, 64, 8, 3), (4, 4, 32, 8, 2), (4, 4, 32, 8, 3)]
"""Of the forward scan with helping warps: states of a lane, warps that walk, tile, unrolled groups, blocks of a multiprocessor."""


def forward_variants() -> Iterator[Any]:
    from anymamba.backends.cuda import selective_scan_launch as in_cuda

    for shape, (sizes, official, _) in SCAN_SHAPES.items():
        batch, length, channels, states = sizes
        rule = in_cuda.forward_plan(batch, channels, length, DEVICE)
        plans = [rule]
        plans += [in_cuda.ChannelsPlan(n, 1, tile, warps, unroll, blocks=blocks, split=True) for n, warps, tile, unroll, blocks in SPLIT]
        chunked = (1,) if batch > 1 else (12, 16)
        plans += [in_cuda.ChannelsPlan(8, 1, 16, 1, 8, chunks=chunks, polynomial=polynomial) for chunks in chunked for polynomial in (0, 1)]
        for plan in dict.fromkeys(plans):

            def run(sizes: Any = sizes, plan: Any = plan, keep: float = False) -> Any:
                given = kept(("scan", sizes), lambda: scan_inputs(*sizes))
                return in_cuda.scan_forward(*given.values(), True, False, 16 if keep else 0, plan)[:1]

            yield "scan_forward", shape, describe(plan), official, run
        yield (
            "scan_forward", shape, "with checkpoints", official,
            lambda run=run, sizes=sizes, rule=rule: run(sizes, rule, True),
        )  # fmt: skip


def backward_variants() -> Iterator[Any]:
    from anymamba.backends.cuda import selective_scan_launch as in_cuda
    from anymamba.backends.cuda.selective_scan_channels_backward import scan_backward
    from anymamba.backends.triton.scan import selective_scan as op

    for shape, (sizes, _, official) in SCAN_SHAPES.items():
        batch, length, channels, states = sizes
        rule = in_cuda.backward_plan(batch, channels, length, DEVICE)
        counts = (1, 2) if batch > 1 else (6, 8, 12) if length > 2048 else (8, 11, 16)
        plans = [rule, *(replace(rule, chunks=chunks) for chunks in counts), replace(rule, tile=4)]
        for plan in dict.fromkeys(plans):

            def run(sizes: Any = sizes, plan: Any = plan) -> Any:
                def make() -> Any:
                    given = scan_inputs(*sizes)
                    dout = torch.randn(sizes[0], sizes[1], sizes[2], device=DEVICE, dtype=torch.bfloat16).transpose(1, 2)
                    return given, dout

                given, dout = kept(("scan backward", sizes), make)
                return scan_backward(dout, *given.values(), True, _checkpoint(op, given, plan.window), plan)

            yield "scan_backward", shape, describe(plan), official, run


def _checkpoint(op: Any, given: dict[str, Tensor | None], every: int) -> Any:
    key = "checkpoint", every, tuple(given["u"].shape)
    if _checkpoints.get("key") != key:
        batch, channels, length = given["u"].shape
        plan = replace(op.forward_plan(batch, channels, length, 16, DEVICE), every=every)
        _checkpoints.update(key=key, value=op.scan_forward(*given.values(), True, False, True, plan)[2])
    return _checkpoints["value"]


_checkpoints: dict = {}


def conv_inputs(batch: int, length: int, channels: int, rows: bool) -> Any:
    """x, dout, weight, bias; rows: time is contiguous, not the channels."""
    torch.manual_seed(0)
    sizes = (batch, channels, length) if rows else (batch, length, channels)
    x, dout = (torch.randn(sizes, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    weight, bias = (torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16) for shape in ((channels, 4), (channels,)))
    return *((x, dout) if rows else (x.mT, dout.mT)), weight, bias


def conv_variants() -> Iterator[Any]:
    from anymamba.backends.triton.conv import causal_conv1d as op

    batch, length, channels = CONV_SHAPE
    forward_plan = op.conv_plan(batch, channels, length, DEVICE)
    backward_plan = op.conv_plan(batch, channels, length, DEVICE, backward=True)
    plans = [forward_plan, backward_plan, op.ConvPlan(256, 160, 4, 2), op.ConvPlan(128, 32, 4, 1)]
    plans += [replace(plan, stretch=stretch) for plan in (forward_plan, backward_plan) for stretch in (16, 64, 128)]
    for plan in dict.fromkeys(plans):

        def forward(plan: Any = plan) -> Any:
            x, _, weight, bias = kept("conv", lambda: conv_inputs(*CONV_SHAPE, False))
            return (op.conv_forward(x, weight, bias, None, None, True, plan),)

        def backward(plan: Any = plan) -> Any:
            x, dout, weight, bias = kept("conv", lambda: conv_inputs(*CONV_SHAPE, False))
            return op.conv_backward(dout, x, weight, bias, None, None, True, plan)[:3]

        if plan is not backward_plan:
            yield "conv_forward", "B8 L2048 D5120 W4", describe(plan), CONV_TIMES["channels"][0], forward
        if plan is not forward_plan:
            yield "conv_backward", "B8 L2048 D5120 W4", describe(plan), CONV_TIMES["channels"][1], backward


def conv_rows_variants() -> Iterator[Any]:
    """Time contiguous. The last variant copies and takes the kernels for contiguous channels: its error shows whether both agree.
    Official times are those of length 2048, for the odd length too."""
    from anymamba.backends.triton.conv import causal_conv1d as op
    from anymamba.backends.triton.conv import causal_conv1d_rows as along

    for length in (2048, 2047):
        sizes = CONV_SHAPE[0], length, CONV_SHAPE[2]
        shape = f"B8 L{length} D5120 W4 time contiguous"
        for grad, official in zip((False, True), CONV_TIMES["length"]):
            rule = along.rows_plan(torch.empty(sizes[0], sizes[2], length, dtype=torch.bfloat16, device=DEVICE), grad)
            plans = [along.ConvRowsPlan(8, 32 * warps, 1, 8 // warps, 1, warps) for warps in (1, 2, 4)]
            if grad:
                plans += [along.ConvRowsPlan(8, 32 * warps, warps, 8, 1, warps) for warps in (2, 4)]
                plans += [along.ConvRowsPlan(8, 32, 1, 4, 1, 1), along.ConvRowsPlan(16, 32, 1, 4, 1, 1)]
            else:
                plans += [along.ConvRowsPlan(8, 32 * warps, 1, 8 // warps, 2, warps) for warps in (1, 2, 4)]
                plans += [along.ConvRowsPlan(8, 32 * warps, warps, 8, tile, warps) for warps in (2, 4, 8) for tile in (1, 2)]
                plans += [along.ConvRowsPlan(8, 128, 4, 8, 4, 4), along.ConvRowsPlan(16, 128, 1, 1, 1, 4)]
            if length % 8:
                plans.append(along.ConvRowsPlan(1, 128, 1, 16, 1 if grad else 4, 4))
            for plan in dict.fromkeys([rule, *plans, None]):

                def run(plan: Any = plan, sizes: Any = sizes, grad: bool = grad) -> Any:
                    x, dout, weight, bias = kept(("conv", sizes), lambda: conv_inputs(*sizes, True))
                    copying = op.conv_plan(sizes[0], sizes[2], sizes[1], DEVICE, backward=grad)
                    if grad and plan:
                        return along.conv_rows_backward(dout, x, weight, bias, None, None, True, plan)[:3]
                    if grad:
                        return op.conv_backward(dout, x, weight, bias, None, None, True, copying)[:3]
                    if plan:
                        return (along.conv_rows_forward(x, weight, bias, None, None, True, plan),)
                    return (op.conv_forward(x, weight, bias, None, None, True, copying),)

                name = describe(plan) if plan else "copied to contiguous channels"
                yield "conv_backward" if grad else "conv_forward", shape, name, official, run


def norm_variants() -> Iterator[Any]:
    """x of the results: how far from the rate of a copy on an H200."""
    from anymamba.backends.triton.norm import norm, norm_gated, norm_rows

    def inputs(width: int) -> Any:
        torch.manual_seed(0)
        rows = [torch.randn(16384, width, device=DEVICE, dtype=torch.bfloat16) for _ in range(3)]
        return [*rows, torch.randn(width, device=DEVICE), torch.ones(16384, 1, device=DEVICE)]

    def forward(width: int, with_gate: bool) -> Any:
        x, other, _, weight, _ = kept(("norm", width), lambda: inputs(width))
        if with_gate:
            return (norm_gated.rmsnorm_fn(x, weight, None, other, norm_before_gate=False),)
        return norm.rms_norm_fn(x, weight, None, other, prenorm=True)

    def backward(width: int, with_gate: bool, warps: int, programs: int) -> Any:
        x, other, dy, weight, scale = kept(("norm", width), lambda: inputs(width))
        residual, z = (None, other) if with_gate else (other, None)
        return norm_rows.norm_backward(
            dy, None if with_gate else dy, x, residual, z, weight, None, None, scale, width, False, x.dtype,
            None, warps=warps, programs=programs,
        )[:4]  # fmt: skip

    for with_gate, width in itertools.product((False, True), (768, 1536, 2560, 5120)):
        shape = f"16384 x {width} " + ("gated" if with_gate else "residual")
        one = 16384 * width * 2 / 4.3e9  # milliseconds to move such a tensor
        yield "norm", shape + " forward", "rule", (3 if with_gate else 4) * one, lambda w=width, g=with_gate: forward(w, g)
        for warps, programs in [(None, None), *itertools.product((2, 4, 8, 16), (2, 4, 8))]:
            yield (
                "norm", shape + " backward", f"warps={warps} programs={programs}", 5 * one,
                lambda w=width, g=with_gate, n=warps, p=programs: backward(w, g, n, p),
            )  # fmt: skip


def ssd_inputs(batch: int, length: int, heads: int, headdim: int, states: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    """Views into one projection, as the model has them."""
    sizes = {"batch": batch, "length": length, "nheads": heads, "headdim": headdim, "d_state": states, "ngroups": 1}
    without = ("z", "initial_states")
    given = made("mamba_chunk_scan_combined", dtype, **sizes, dt=-4.0, fresh=True, one_tensor=True, without=without)
    names = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial", "seq_idx")
    return {name: given.get(name) for name in names}


def ssd_forward_variants() -> Iterator[Any]:
    from anymamba.backends.triton.ssd import ssd as op

    for shape, (sizes, official, _) in SSD_SHAPES.items():
        batch, length, heads, headdim, states = sizes
        base = op.forward_plan(batch, length, heads, heads, headdim, states, False, DEVICE)
        plans = [base, replace(base, heads=8), replace(base, walk_stages=2), replace(base, walk_stages=3)]
        for plan in dict.fromkeys(plans):

            def run(sizes: Any = sizes, plan: Any = plan) -> Any:
                given = kept(("ssd", sizes), lambda: ssd_inputs(*sizes))
                return op.chunk_scan_forward(*given.values(), True, (0.0, float("inf")), False, False, plan)[:1]

            yield "ssd_forward", shape, describe(plan), official, run


def ssd_gated_variants() -> Iterator[Any]:
    """Forward with z, as the official times were taken, and with documents."""
    from anymamba.backends.triton.ssd import ssd as op

    def make(sizes: Any, gated: bool) -> Any:
        given = ssd_inputs(*sizes)
        if gated:
            return {**given, "z": torch.randn(sizes[:4], device=DEVICE).bfloat16()}
        return {**given, "seq_idx": (torch.arange(sizes[1], device=DEVICE) // 700).int().expand(sizes[0], -1)}

    for (shape, (sizes, official, _)), gated in itertools.product(SSD_SHAPES.items(), (True, False)):
        batch, length, heads, headdim, states = sizes
        base = op.forward_plan(batch, length, heads, heads, headdim, states, False, DEVICE, gated, not gated)
        plans = [base, *(replace(base, warps=warps, stages=stages) for warps, stages in itertools.product((4, 8), (1, 2, 3)))]
        for plan in dict.fromkeys(plans):

            def run(sizes: Any = sizes, plan: Any = plan, gated: bool = gated) -> Any:
                given = kept(("ssd", sizes, gated), lambda: make(sizes, gated))
                return op.chunk_scan_forward(*given.values(), True, (0.0, float("inf")), False, False, plan)[:1]

            yield "ssd_gated", shape + (" z" if gated else " documents"), describe(plan), official, run


SSD_BACKWARD_CHANGES = [{}, {"heads": 4}, {"q": 32, "heads": 4}]
"""Ways of the backward, as changes of the rule's plan."""


def ssd_backward_variants() -> Iterator[Any]:
    from anymamba.backends.triton.ssd import ssd as op

    for shape, (sizes, _, official) in SSD_SHAPES.items():
        batch, length, heads, headdim, states = sizes
        base = op.backward_plan(batch, length, heads, heads, headdim, states, False, DEVICE)
        plans = [base]
        plans += [replace(base, heads=heads // share) for share in (1, 2, 4, 8)]
        plans += [replace(base, stages=stages) for stages in (2, 3)]
        for walk_n, walk_stages, walk_warps in ((32, 3, 4), (64, 2, 4), (64, 3, 8), (128, 2, 4), (128, 3, 4), (128, 3, 8)):
            plans.append(replace(base, walk_n=walk_n, walk_stages=walk_stages, walk_warps=walk_warps))
        plans += [replace(base, q=32), replace(base, warps=8), replace(base, q=32, warps=8), replace(base, block_p=32)]
        for plan in dict.fromkeys(plans):

            def run(sizes: Any = sizes, plan: Any = plan) -> Any:
                def make() -> Any:
                    return ssd_inputs(*sizes), torch.randn(sizes[:4], device=DEVICE, dtype=torch.bfloat16)

                given, dout = kept(("ssd backward", sizes), make)
                return op.chunk_scan_backward(dout, None, *given.values(), None, True, (0.0, float("inf")), plan)

            yield "ssd_backward", shape, describe(plan), official, run


FAMILIES = {
    "scan_forward": forward_variants,
    "scan_backward": backward_variants,
    "ssd_backward": ssd_backward_variants,
    "ssd_forward": ssd_forward_variants,
    "ssd_gated": ssd_gated_variants,
    "conv": conv_variants,
    "conv_rows": conv_rows_variants,
    "norm": norm_variants,
}


def describe(plan: Any) -> str:
    return " ".join(f"{name}={value}" for name, value in vars(plan).items())


def variants(only: str) -> Iterator[Any]:
    for name, family in FAMILIES.items():
        if not only or name in only:
            yield from family()

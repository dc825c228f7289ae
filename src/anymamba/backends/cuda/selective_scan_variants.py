"""Which kernels of the scan a call takes, and small inputs that take the same: what a plan decides is compiled into its kernels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from anymamba.backends.call import Call
from anymamba.backends.cuda import selective_scan_launch as by_channels
from anymamba.backends.cuda import selective_scan_rows_launch as by_rows

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

MOST_WORK = 14_000_000
"""State values, over all steps, of one input of a self-check: the reference holds several of them in float64 for its gradients. Only
plans for very many channels with very many states need more."""


def variant(call: Call) -> str:
    """Its kernels, and what else is compiled into all of them."""
    dtypes = {feature for feature in call.features if feature.partition("_")[0] in _DTYPES}
    words = sorted(dtypes | call.features & {"groups", "constant_B", "constant_C", "initial_states", "seq_idx"})
    return ", ".join([*kernels(call), *words])


def kernels(call: Call) -> list[str]:
    """By name, with everything that the plans compile into them; the first is no kernel but says which inputs they are for."""
    return _of_channels(call) if _along_channels(call) else _of_rows(call)


def _along_channels(call: Call) -> bool:
    """As selective_scan_launch.suits has it of the tensors."""
    other = call.features & {"constant_B", "constant_C", "initial_states", "seq_idx"}
    fits = by_channels.takes(call.size("d_state", 16), call.size("dim", 20), call.size("ngroups", 1))
    return "aligned" in call.features and not other and fits


def _of_channels(call: Call) -> list[str]:
    channels, groups, d_state = call.size("dim", 20), call.size("ngroups", 1), call.size("d_state", 16)
    sizes = call.size("batch", 2), channels, call.size("length", 37), call.device
    B, C = (_element_size(call, name) for name in "BC")
    plan = by_channels.of_one_group(by_channels.forward_plan(*sizes, packed=B == C == 2), d_state, channels, groups)
    back = by_channels.backward_plan(*sizes)
    if call.grad:
        plan = by_channels.training_plan(plan, back.window, B == 4)
    names = [f"channels side by side, {d_state} states", f"forward {plan.name}"]
    if not call.grad:
        return names
    if "z" in call.features:
        names[0] += ", z"
        back = by_channels.gated_plan(back, call.dtype)
    return [*names, f"backward {replace(back, chunks=1).name}", *(["carry between chunks"] if back.chunks > 1 else [])]


def _of_rows(call: Call) -> list[str]:
    d_state, size = call.size("d_state", 16), call.dtype.itemsize
    moving = [_element_size(call, name) for name in "BC" if f"constant_{name}" not in call.features]
    channels, length = call.size("dim", 20), call.size("length", 37)
    wide = max(size, *(_element_size(call, name) for name in "BC")) == 4
    sizes = by_rows.Sizes(
        call.size("batch", 2) * channels, channels // call.size("ngroups", 1), d_state, 2 - len(moving), sum(moving), wide, call.device
    )
    beside = "steps" if "length_contiguous" in call.features else "channels copied to steps"
    names = [f"{beside} side by side, {d_state} states, rows of {by_rows.divides(length * size)} bytes"]
    names.append(f"forward {by_rows.forward_plan(sizes).name}")
    return [*names, f"backward {by_rows.backward_plan(sizes).name}"] if call.grad else names


def _element_size(call: Call, name: str) -> int:
    return next((dtype.itemsize for word, dtype in _DTYPES.items() if f"{word}_{name}" in call.features), call.dtype.itemsize)


def probe(call: Call) -> list[dict[str, Any]]:
    """Sizes of the op's inputs that together take every kernel of the call's variant: the first that take all and are small, else the
    first small ones for each, else those with the least work."""
    wanted = kernels(call)
    best: dict[str, tuple[float, Call]] = dict.fromkeys(wanted[1:], (math.inf, call))
    for sizes in _candidates(call):
        candidate = _with(call, **sizes)
        work = sizes["batch"] * sizes["dim"] * sizes["length"] * call.size("d_state", 16)
        names = kernels(candidate)
        if names == wanted and work <= MOST_WORK:
            return [_build_sizes(candidate)]
        for name in names if names[0] == wanted[0] else ():
            if name in best and MOST_WORK < best[name][0] > work:
                best[name] = work, candidate
    chosen: list[Call] = []
    for _, candidate in sorted(best.values(), key=lambda pair: -pair[0]):
        if not set(kernels(candidate)[1:]) & set(wanted) <= {name for one in chosen for name in kernels(one)}:
            chosen.append(candidate)
    return [_build_sizes(candidate) for candidate in chosen]


def _build_sizes(call: Call) -> dict[str, Any]:
    """What OpSpec.build of selective_scan_fn makes inputs of."""
    return {
        "batch": call.size("batch", 2), "dim": call.size("dim", 20), "length": call.size("length", 37), "d_state": call.size("d_state", 16),
        "ngroups": call.size("ngroups", 1) if "groups" in call.features else 0,
        "layout": "length" if "length_contiguous" in call.features else "channels",
        "constant": "".join(name for name in "BC" if f"constant_{name}" in call.features),
        "without": () if "z" in call.features else ("z",), "states": "initial_states" in call.features,
        "tokens": 9 if "seq_idx" in call.features else 0,
    }  # fmt: skip


_LENGTHS = (70, 150, 300, 600, 1100, 4200, 20, 8)
"""Several tiles of most plans first; then so many that the longest tiles and every rule for chunks are met; few for very many channels."""

_CHANNELS = (24, 64, 160, 256, 512, 1056, 1280, 1600, 2048, 2400, 3200, 4096, 5120, 6400, 8192, 10240, 12800, 16384, 20480, 26112, 34048)
"""Multiples of 8, closer together than the borders of any two rules on GPUs of 80 to 200 multiprocessors."""


def _candidates(call: Call) -> Iterator[dict[str, int]]:
    """Those with little work first."""
    batch, dim, length, groups = call.size("batch", 2), call.size("dim", 20), call.size("length", 37), call.size("ngroups", 1)
    group = dim // groups
    shapes = {(1, channels, 1) for channels in _CHANNELS} if groups == 1 else set()
    if groups > 1:  # a group stays as wide as it is, or becomes narrower
        for width, count in itertools.product({min(group, 24), min(group, 128), group}, (2, 4, 16, 64, 256, 1024)):
            shapes.add((1, width * count, count))
    if not _along_channels(call) and groups == 1:  # with as many channels a kernel of the other family may take it
        shapes = {(one, channels + 1, count) for one, channels, count in shapes}
    shapes |= {(one, dim, groups) for one in {1, 2, 4, 8, 16, 32, 64, batch} if one <= batch}
    for (one, channels, count), steps in sorted(
        itertools.product(shapes, (*_LENGTHS, length)), key=lambda pair: (pair[0][0] * pair[0][1], _rank(pair[1]))
    ):
        unit = by_rows.divides(length * call.dtype.itemsize) // call.dtype.itemsize
        yield {"batch": one, "dim": channels, "ngroups": count, "length": max(steps // (2 * unit) * 2 * unit + unit, unit)}


def _rank(length: int) -> int:
    return _LENGTHS.index(length) if length in _LENGTHS else len(_LENGTHS)


def _with(call: Call, **sizes: int) -> Call:
    """The call with those sizes, of tensors without gaps."""
    features = call.features
    if "length_contiguous" not in features:
        aligned = sizes["dim"] * call.dtype.itemsize % 16 == 0
        features = features | {"aligned"} if aligned else features - {"aligned"}
    return replace(call, features=features, sizes=tuple(sorted({**dict(call.sizes), **sizes}.items())))

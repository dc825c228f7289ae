"""Every variant that a plan can choose is hit by the inputs that its self-check runs, on every kind of GPU."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from tests.backends.triton import specialisations

import anymamba.ops  # noqa: F401 - it registers the specs
from anymamba.backends import table
from anymamba.backends import triton as package
from anymamba.backends.call import Call
from anymamba.backends.observers import call_of
from anymamba.backends.opspec import SPECS
from anymamba.backends.probes import as_given

DEVICE = torch.device("cuda")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

SIZES: dict[str, dict[str, tuple[Any, ...]]] = {
    "mamba_chunk_scan_combined": {
        "headdim": (1, 32, 33, 64, 128), "d_state": (16, 24, 64, 80, 128, 256), "nheads": (1, 32, 33), "ngroups": (1,),
        "length": (16, 17), "tokens": (0, 700), "without": ((), ("z",)),
    },
    "selective_scan_fn": {
        "dim": (24, 1536), "d_state": (1, 5, 8, 16, 64, 256), "ngroups": (0, 1, 4), "layout": ("channels", "length", "wide"),
    },
    "causal_conv1d_fn": {"width": (1, 2, 3, 4, 5, 8), "layout": ("channels", "length", "wide")},
    "causal_conv1d_update": {"width": (1, 2, 3, 4, 5, 8)},
    "rms_norm_fn": {"shape": tuple((2, 3, dim) for dim in (1, 7, 20, 768, 1536, 2560, 5120, 8192))},
    "layer_norm_fn": {"shape": tuple((2, 3, dim) for dim in (1, 7, 20, 768, 1536, 2560, 5120, 8192))},
    "rmsnorm_fn": {"shape": tuple((2, 3, dim) for dim in (8, 1536, 5120)), "group_size": (None, 1, 4, 8)},
    "layernorm_fn": {"shape": tuple((2, 3, dim) for dim in (8, 1536, 5120)), "group_size": (None, 1, 4, 8)},
}  # fmt: skip
"""Wide ranges of everything that a plan looks at."""


def grid(op: str) -> Iterator[dict[str, Any]]:
    yield from SPECS[op].published
    for values in itertools.product(*SIZES[op].values()):
        yield dict(zip(SIZES[op], values))


@pytest.mark.parametrize("op", [op for op in package.OPS if hasattr(importlib.import_module(package.OPS[op]), "variant")])
def test_the_probe_of_a_call_takes_the_variant_of_the_call(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, module = SPECS[op], importlib.import_module(package.OPS[op])
    calls = {table._typical_call(spec, DEVICE, torch.float32, sizes) for sizes in grid(op)}
    probes: dict[Call, Call] = {}
    for call in calls:
        arguments = spec.probe_of(call)(lambda *shape: torch.empty(shape, device="meta"))
        meta = Call(op, torch.device("meta"), torch.float32)
        probes[call] = call_of(spec.function, {name: as_given(name, value, spec, meta) for name, value in arguments.items()})
    missed, names = set(), set()
    for target in specialisations.PROCESSORS:
        with specialisations.on(target, monkeypatch):
            for (call, probe), dtype, grad in itertools.product(probes.items(), DTYPES, {False, bool(spec.differentiable)}):
                wanted, got = (
                    module.variant(dataclasses.replace(one, device=DEVICE, dtype=dtype, grad=grad)) for one in (call, probe)
                )
                names.add(wanted)
                if got != wanted:
                    missed.add((target, dtype, wanted, got, call.sizes))
    assert not missed, sorted(map(str, missed))[:5]
    assert len(names) > 2 or not spec.published


def test_every_op_with_several_kernels_has_its_sizes_here() -> None:
    assert {op for op in package.OPS if hasattr(importlib.import_module(package.OPS[op]), "variant")} == set(SIZES)

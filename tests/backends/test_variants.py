"""Every variant that a plan can choose is hit by the inputs that its self-check runs, on every kind of GPU."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from tests.backends.triton import specialisations

import anymamba.ops  # noqa: F401 - it registers the specs
from anymamba.backends import cuda, selfcheck, table, triton
from anymamba.backends.call import Call
from anymamba.backends.cuda import (
    causal_conv1d,
    causal_conv1d_launch,
    mamba_inner,
    selective_scan_launch,
    selective_scan_rows_launch,
    selective_scan_variants,
)
from anymamba.backends.observers import call_of
from anymamba.backends.opspec import SPECS
from anymamba.backends.probes import as_given
from anymamba.backends.triton import launch

DEVICE = torch.device("cuda")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

SIZES: dict[str, dict[str, tuple[Any, ...]]] = {
    "mamba_chunk_scan_combined": {
        "headdim": (1, 32, 33, 64, 128), "d_state": (16, 24, 64, 80, 128, 256), "nheads": (1, 32, 33), "ngroups": (1,),
        "length": (16, 17), "tokens": (0, 700), "without": ((), ("z",)),
    },
    "mamba3_siso": {
        "headdim": (1, 16, 33, 64, 128), "d_state": (2, 16, 24, 64, 128), "nheads": (1, 2, 64), "ngroups": (1,),
        "given": ((), ("D", "Z"), ("D", "Z", "angle_state", "ssm_state", "k_state", "v_state")), "num_angles": (1,),
    },
    "mamba3_mimo": {
        "headdim": (1, 16, 33, 64, 128), "d_state": (16, 24, 64, 128), "rank": (1, 2, 3, 4, 8), "nheads": (1, 64), "ngroups": (1,),
        "given": ((), ("D", "Z", "MIMO_Out")),
    },
    "selective_scan_fn": {
        "dim": (24, 1536), "d_state": (1, 5, 8, 16, 64, 256), "ngroups": (0, 1, 4), "layout": ("channels", "length", "wide"),
        "states": (False, True), "tokens": (0, 9),
    },
    "mamba_inner_fn": {"d_state": (1, 8, 16, 64, 256), "width": (1, 4, 8)},
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


def several_kernels(package: ModuleType) -> list[str]:
    return [op for op in package.OPS if hasattr(importlib.import_module(package.OPS[op]), "variant")]


def calls_of(op: str, build: Callable[..., Any], dtype: torch.dtype = torch.float32) -> Call:
    """What a backend on the GPU is told of these inputs."""
    spec, meta = SPECS[op], Call(op, torch.device("meta"), dtype)
    arguments = build(lambda *shape: torch.empty(shape, device="meta"))
    call = call_of(spec.function, {name: as_given(name, value, spec, meta) for name, value in arguments.items()})
    return dataclasses.replace(call, device=DEVICE)


@pytest.mark.parametrize("op", several_kernels(triton))
def test_the_probe_of_a_call_takes_the_variant_of_the_call(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, module = SPECS[op], importlib.import_module(triton.OPS[op])
    calls = {table._typical_call(spec, DEVICE, torch.float32, sizes) for sizes in grid(op)}
    probes = {call: calls_of(op, spec.probe_of(call)) for call in calls}
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


CUDA_SIZES: dict[str, dict[str, tuple[Any, ...]]] = {
    "selective_scan_fn": {
        "batch": (1, 8), "dim": (24, 37, 768, 1280, 1536, 2048, 5120, 8192), "length": (40, 512, 2047, 8192), "d_state": (1, 16),
        "ngroups": (0, 2), "layout": ("channels", "length"), "without": ((), ("z",)),
    },
    "mamba_inner_fn": {"batch": (1, 8), "dim": (24, 37, 1536, 5120), "length": (40, 2048), "d_state": (16, 24), "width": (4, 3)},
    "causal_conv1d_fn": {
        "batch": (1, 2, 8, 64), "dim": (3, 24, 38, 768, 1536, 5120), "length": (1, 40, 196, 501, 2048, 8192), "width": (1, 4, 8),
        "layout": ("channels", "length"), "without": (("initial_states",),),
    },
}  # fmt: skip
MORE_SCANS: tuple[dict[str, Any], ...] = (
    *({"dim": dim, "d_state": d_state, "layout": "length"} for dim in (24, 1536, 9600) for d_state in (5, 64, 256)),
    *({"dim": 768, "d_state": 4, "layout": layout, "constant": constant} for layout in ("channels", "length") for constant in ("B", "BC")),
    *({"batch": 64, "dim": 1536, "length": length, "ngroups": 96, "layout": "length", "d_state": 1} for length in (195, 196)),
)  # fmt: skip


def on_nvidia(target: str, patch: pytest.MonkeyPatch) -> None:
    for module in (selective_scan_launch, selective_scan_rows_launch):
        patch.setattr(module, "shared_memory", launch.shared_memory)
    for module in (selective_scan_launch, selective_scan_rows_launch, causal_conv1d_launch):
        patch.setattr(module, "processors", launch.processors)


@pytest.mark.parametrize(
    "target", [pytest.param("sm_80", marks=pytest.mark.slow), "sm_90", pytest.param("sm_100", marks=pytest.mark.slow), "sm_120"]
)
@pytest.mark.parametrize("op", CUDA_SIZES)
def test_every_plan_in_cuda_is_hit_by_a_small_probe(op: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, module = SPECS[op], importlib.import_module(cuda.OPS[op])
    sizes = CUDA_SIZES[op]
    every = (dict(zip(sizes, values)) for values in itertools.product(*sizes.values()))
    some = [given for given in every if given["dim"] % 2 == 0 or not given.get("ngroups")]
    wanted: dict[str, Call] = {}
    with specialisations.on(target, monkeypatch), monkeypatch.context() as patch:
        on_nvidia(target, patch)
        for given, dtype in itertools.product((*some, *spec.published, *(MORE_SCANS if op == "selective_scan_fn" else ())), DTYPES[:2]):
            call = calls_of(op, spec.build(**given), dtype)
            for grad in (False, True):
                one = dataclasses.replace(call, grad=grad)
                wanted.setdefault(module.variant(one), one)
        missed = []
        for name, call in wanted.items():
            hit: set[str] = set()
            for build in selfcheck.probes_of(module, call):
                small = dataclasses.replace(calls_of(op, build, call.dtype), grad=call.grad)
                hit |= set(kernels(small))
                work = small.size("batch") * small.size("dim") * small.size("length") * small.size("d_state", 1)
                assert work <= 3e7, (name, small.sizes)
            if not set(kernels(call)) <= hit:
                missed.append((name, set(kernels(call)) - hit, call.sizes))
    assert not missed, "\n".join(map(str, missed[:5]))
    assert len(wanted) > 20


def kernels(call: Call) -> list[str]:
    if call.op == "causal_conv1d_fn":
        return causal_conv1d.kernels(call)
    return selective_scan_variants.kernels(mamba_inner._scan_of(call) if call.op == "mamba_inner_fn" else call)


def test_every_op_with_several_kernels_has_its_sizes_here() -> None:
    assert set(several_kernels(triton)) == set(SIZES)
    assert set(several_kernels(cuda)) == {*CUDA_SIZES, "decode_step"}  # the last in cuda/test_decode_emulated.py

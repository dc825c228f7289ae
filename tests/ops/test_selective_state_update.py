"""selective_state_update on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.ops import layouts
from tests.ops.harness import Case, check, parametrize
from torch import Tensor

from anymamba import ops
from anymamba.backends.probes import Probe, Random

ALL = ("D", "z", "dt_bias")


def mamba1(
    batch: int = 3, dim: int = 20, d_state: int = 16, given: tuple[str, ...] = ALL, groups: int | None = None,
    rows: int | None = None, indices: list[int] | None = None, dt_softplus: bool = True, fp32_state: bool = True,
) -> Callable[[Random], Probe]:  # fmt: skip
    def build(random: Random) -> Probe:
        matrix = (batch, d_state) if groups is None else (batch, groups, d_state)
        inputs = {
            "state": random(rows or batch, dim, d_state),
            "x": random(batch, dim),
            "dt": random(batch, dim) if dt_softplus else random(batch, dim).abs(),
            "A": -random(dim, d_state).exp(),
            "B": random(*matrix),
            "C": random(*matrix),
        }
        optional = {"D": (dim,), "z": (batch, dim), "dt_bias": (dim,)}
        inputs.update({name: random(*optional[name]) for name in given})
        if indices is not None:
            inputs["state_batch_indices"] = torch.tensor(indices, dtype=torch.int32)
        float32 = ("A", "D", "dt_bias", *(["state"] if fp32_state else []))
        return Probe(inputs, inplace=("state",), float32=float32, options={"dt_softplus": dt_softplus})

    return build


def mamba2(
    batch: int = 3, nheads: int = 4, headdim: int = 12, d_state: int = 16, groups: int | None = 2, tied: bool = True,
    rows: int | None = None, indices: list[int] | None = None, given: tuple[str, ...] = ALL,
) -> Callable[[Random], Probe]:  # fmt: skip
    """tied: A, dt, D, dt_bias are built once a head, for the views TIED."""

    def build(random: Random) -> Probe:
        width = 1 if tied else headdim
        matrix = (batch, d_state) if groups is None else (batch, groups, d_state)
        inputs = {
            "state": random(rows or batch, nheads, headdim, d_state),
            "x": random(batch, nheads, headdim),
            "dt": random(batch, nheads, width),
            "A": -random(nheads, width, 1 if tied else d_state).exp(),
            "B": random(*matrix),
            "C": random(*matrix),
        }
        optional = {"D": (nheads, width), "z": (batch, nheads, headdim), "dt_bias": (nheads, width)}
        inputs.update({name: random(*optional[name]) for name in given})
        if indices is not None:
            inputs["state_batch_indices"] = torch.tensor(indices, dtype=torch.int32)
        return Probe(inputs, inplace=("state",), float32=("A", "D", "dt_bias", "state"), options={"dt_softplus": True})

    return build


def tied_to(headdim: int, d_state: int, given: tuple[str, ...] = ALL) -> dict[str, Callable[[Tensor], Tensor]]:
    """The stride-0 views that Mamba-2 models pass."""
    views: dict[str, Callable[[Tensor], Tensor]] = {
        "dt": lambda dt: dt.expand(-1, -1, headdim),
        "A": lambda A: A.expand(-1, headdim, d_state),
    }
    views.update({name: lambda one: one.expand(-1, headdim) for name in ("D", "dt_bias") if name in given})
    return views


CASES = [
    Case("selective_state_update", name, build, views, forward_only=True)
    for name, build, views in [
        *((f"dim{dim}-state{n}", mamba1(dim=dim, d_state=n), {}) for dim, n in [(1, 16), (7, 1), (19, 8), (64, 16), (5, 64), (3, 256)]),
        ("nothing-optional", mamba1(given=(), dt_softplus=False), {}),
        ("no-dt-bias", mamba1(given=("D", "z")), {}),
        ("no-D", mamba1(given=("z", "dt_bias")), {}),
        ("state-in-the-dtype-of-x", mamba1(fp32_state=False), {}),
        ("groups-without-heads", mamba1(groups=4), {}),
        ("rows", mamba1(rows=6, indices=[5, 0, 3]), {}),
        ("padding", mamba1(rows=6, indices=[5, -1, 3]), {}),
        ("strided-state", mamba1(), {"state": layouts.every_second, "A": lambda A: A[:, :8], "B": lambda B: B[:, ::2],
                                       "C": lambda C: C[:, 8:]}),
        ("expanded-batch", mamba1(batch=1, rows=3, given=("z",)), {n: layouts.over_batch(3) for n in ("x", "dt", "z", "B", "C")}),
        ("heads-tied", mamba2(), tied_to(12, 16)),
        ("heads-tied-wide", mamba2(headdim=64, d_state=128, groups=1), tied_to(64, 128)),
        ("heads-tied-nothing-optional", mamba2(given=()), tied_to(12, 16, ())),
        ("heads-tied-padding", mamba2(rows=7, indices=[-1, 6, 2]), tied_to(12, 16)),
        ("heads-tied-odd", mamba2(nheads=3, headdim=5, d_state=7, groups=3), tied_to(5, 7)),
        ("heads-free", mamba2(tied=False), {}),
        ("heads-no-group-axis", mamba2(groups=None), tied_to(12, 16)),
        ("heads-rows", mamba2(rows=7, indices=[1, 6, 2], tied=False), {}),
    ]
]  # fmt: skip


@parametrize(CASES)
def test_step(case: Case, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, backend, dtype, monkeypatch)


def test_no_gradient_passes() -> None:
    x = torch.randn(2, 4, requires_grad=True)
    state: Any = torch.zeros(2, 4, 3)
    out = ops.selective_state_update(state, x, torch.rand(2, 4), -torch.rand(4, 3), torch.randn(2, 3), torch.randn(2, 3))
    assert not out.requires_grad and not state.requires_grad and state.any()


def test_an_empty_batch() -> None:
    out = ops.selective_state_update(
        torch.zeros(0, 4, 3), torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(4, 3), torch.zeros(0, 3), torch.zeros(0, 3)
    )
    assert out.shape == (0, 4)

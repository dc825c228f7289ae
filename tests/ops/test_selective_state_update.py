"""selective_state_update on every backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.ops import layouts
from tests.ops.harness import Case, check, parametrize

from anymamba import ops
from anymamba.backends.opspec import Build
from anymamba.ops.selective_state_update import build

ALL = ("D", "z", "dt_bias")


def mamba1(batch: int = 3, dim: int = 20, given: tuple[str, ...] = ALL, **options: Any) -> Build:
    return build(batch, 0, dim, without=tuple(set(ALL) - set(given)), **{"ngroups": 0, **options})


def mamba2(headdim: int = 12, given: tuple[str, ...] = ALL, **options: Any) -> Build:
    return build(3, headdim=headdim, without=tuple(set(ALL) - set(given)), **options)


CASES = [
    Case("selective_state_update", name, build, views, forward_only=True)
    for name, build, views in [
        *((f"dim{dim}-state{n}", mamba1(dim=dim, d_state=n), {}) for dim, n in [(1, 16), (7, 1), (19, 8), (64, 16), (5, 64), (3, 256)]),
        ("nothing-optional", mamba1(given=(), dt_softplus=False), {}),
        ("no-dt-bias", mamba1(given=("D", "z")), {}),
        ("no-D", mamba1(given=("z", "dt_bias")), {}),
        ("groups-without-heads", mamba1(ngroups=4), {}),
        ("rows", mamba1(rows=6, indices=[5, 0, 3]), {}),
        ("padding", mamba1(rows=6, indices=[5, -1, 3]), {}),
        ("strided-state", mamba1(), {"state": layouts.every_second, "A": lambda A: A[:, :8], "B": lambda B: B[:, ::2],
                                       "C": lambda C: C[:, 8:]}),
        ("expanded-batch", mamba1(batch=1, rows=3, given=("z",)), {n: layouts.over_batch(3) for n in ("x", "dt", "z", "B", "C")}),
        ("heads-tied", mamba2(), {}),
        ("heads-tied-wide", mamba2(headdim=64, d_state=128, ngroups=1), {}),
        ("heads-tied-nothing-optional", mamba2(given=()), {}),
        ("heads-tied-padding", mamba2(rows=7, indices=[-1, 6, 2]), {}),
        ("heads-tied-odd", mamba2(nheads=3, headdim=5, d_state=7, ngroups=3), {}),
        ("heads-free", mamba2(tied=False), {}),
        ("heads-no-group-axis", mamba2(ngroups=0), {}),
        ("heads-rows", mamba2(rows=7, indices=[1, 6, 2], tied=False), {}),
    ]
] + [Case("selective_state_update", "state-in-the-dtype-of-x", mamba1(), forward_only=True, float32=("A", "D", "dt_bias"))]  # fmt: skip


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

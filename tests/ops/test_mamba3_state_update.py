"""One token of Mamba-3 on every backend, and the rotation that goes before it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.ops import layouts
from tests.ops.harness import Case, check, parametrize
from torch import Tensor

from anymamba import ops
from anymamba.backends.opspec import Build
from anymamba.errors import ArgumentError
from anymamba.ops.mamba3_state_update import build
from anymamba.reference.mamba3 import rotate

OP = "mamba3_state_update"


ALL = ("D", "z", "outproj")


def update(
    batch: int = 2, rank: int = 4, nheads: int = 4, headdim: int = 12, d_state: int = 16, absent: tuple[str, ...] = (),
) -> Build:  # fmt: skip
    return build(batch, nheads, headdim, d_state, rank, tuple(name for name in ALL if name not in absent))


CASES = [
    Case(OP, f"rank{rank}-heads{nheads}-headdim{headdim}-state{d_state}", update(3, rank, nheads, headdim, d_state), forward_only=True)
    for rank, nheads, headdim, d_state in [(1, 3, 5, 16), (4, 2, 64, 128), (2, 5, 19, 3), (8, 1, 1, 1)]
] + [
    Case(OP, "without-outproj", update(absent=("outproj",)), forward_only=True),
    Case(OP, "without-gate", update(absent=("z",)), forward_only=True),
    Case(OP, "without-D", update(absent=("D",)), forward_only=True),
    Case(OP, "strided", update(headdim=24, d_state=32),
         {**dict.fromkeys(("Bstate", "Xstate", "B", "C", "x", "z", "xproj", "outproj", "zproj"), layouts.every_second),
          "state": lambda state: state[:, :, ::2, ::2]}, forward_only=True),
    Case(OP, "projections-of-one", update(), {n: lambda t: t[:1, :1, :1].expand(4, 4, 12) for n in ("xproj", "outproj", "zproj")},
         forward_only=True),
]  # fmt: skip


@parametrize(CASES)
def test_update(case: Case, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, backend, dtype, monkeypatch)


def inputs(**sizes: Any) -> dict[str, Any]:
    return update(**sizes)(lambda *shape: torch.randn(*shape, dtype=torch.float64))


def sequence(rank: int, length: int = 9) -> dict[str, Any]:
    """Arguments of mamba3_mimo that mamba3_siso takes too, if rank is 1."""
    batch, nheads, headdim, d_state = 2, 4, 6, 8
    by_head = (batch, nheads, length)
    return {
        "ADT": -torch.rand(*by_head).double(),
        "DT": torch.rand(*by_head).double(),
        "Trap": torch.randn(*by_head).double(),
        **{name: torch.randn(batch, length, rank, nheads, d_state).double() for name in ("Q", "K")},
        **{name: torch.randn(batch, length, nheads, headdim).double() for name in ("V", "Z")},
        **{name: torch.randn(nheads, rank, d_state).double() for name in ("Q_bias", "K_bias")},
        **{name: torch.randn(nheads, rank, headdim).double() for name in ("MIMO_V", "MIMO_Z", "MIMO_Out")},
        "Angles": torch.randn(batch, length, nheads, 4).double(),
        "D": torch.randn(nheads).double(),
    }


@pytest.mark.parametrize("rank", [1, 3])
def test_rotation_and_update_step_by_step_are_the_scan(rank: int) -> None:
    given = sequence(rank)
    want = ops.mamba3_mimo(**given, chunk_size=8, rotary_dim_divisor=2, dtype=None, return_state=True)
    angle, state = torch.zeros(2, 4, 4).double(), torch.zeros(2, 4, 6, 8).double()
    k_state, v_state = torch.zeros(2, rank, 4, 8).double(), torch.zeros(2, 4, 6).double()
    up, gate, down = (given[name].transpose(0, 1) for name in ("MIMO_V", "MIMO_Z", "MIMO_Out"))
    outputs = []
    for t in range(9):
        dt, adt = given["DT"][:, :, t], given["ADT"][:, :, t]
        q, k, angle = ops.apply_rotary_qk_inference_fwd(
            given["Q"][:, t], given["K"][:, t], angle, given["Angles"][:, t], dt, given["Q_bias"].transpose(0, 1),
            given["K_bias"].transpose(0, 1), rotate_pairwise=False,
        )  # fmt: skip
        trap = torch.sigmoid(given["Trap"][:, :, t])
        out = ops.mamba3_step_fn(
            state, k_state, v_state, adt / dt, k, q, given["D"], given["V"][:, t], dt, trap, up, down, z=given["Z"][:, t], zproj=gate
        )
        outputs.append(out)
        k_state, v_state = k, given["V"][:, t]
    found = torch.stack(outputs, dim=1), angle % (2 * math.pi), state, k_state, v_state
    for got, expected in zip(found, want):
        torch.testing.assert_close(got, expected)


def test_step_fn_writes_where_it_is_told() -> None:
    given = inputs()
    want_state = given["state"].clone()
    want = ops.mamba3_state_update(**{**given, "state": want_state})
    before, state_out, out = given["state"].clone(), torch.empty_like(given["state"]), torch.empty_like(given["x"])
    returned = ops.mamba3_step_fn(**given, state_out=state_out, out=out)
    assert returned is out
    torch.testing.assert_close(out, want)
    torch.testing.assert_close(state_out, want_state)
    torch.testing.assert_close(given["state"], before)
    ops.mamba3_step_fn(**given, out=out)
    torch.testing.assert_close(given["state"], want_state)
    with pytest.raises(ArgumentError, match="out has shape"):
        ops.mamba3_step_fn(**given, out=torch.empty(2, 4, 4, 12))


@pytest.mark.parametrize("pairwise", [True, False])
@pytest.mark.parametrize("conjugate", [True, False])
def test_rotation(pairwise: bool, conjugate: bool) -> None:
    q, k, bias = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 4, 8), torch.randn(3, 4, 8)
    angle_state, proj, dt = torch.randn(2, 4, 3), torch.randn(2, 4, 3), torch.rand(2, 4)
    found = ops.apply_rotary_qk_inference_fwd(q, k, angle_state, proj, dt, bias, None, conjugate=conjugate, rotate_pairwise=pairwise)
    angle = angle_state + math.pi * proj.tanh() * dt[..., None]
    turn = -angle[:, None] if conjugate else angle[:, None]
    for got, want in zip(found, (rotate(q + bias, turn, pairwise), rotate(k, turn, pairwise), angle)):
        torch.testing.assert_close(got, want)
    ops.apply_rotary_qk_inference_fwd(
        q, k, angle_state, proj, dt, bias, None, inplace=True, conjugate=conjugate, rotate_pairwise=pairwise
    )
    for got, want in zip((q, k, angle_state), found):
        torch.testing.assert_close(got, want)


def running(angle: Tensor, dt: Tensor, start: Tensor) -> list[Tensor]:
    states = []
    for t in range(angle.shape[1]):
        start = (start + math.pi * angle[:, t].tanh() * dt[:, :, t, None]) % (2 * math.pi)
        states.append(start)
    return states


def test_running_angles() -> None:
    angle, dt, start = torch.randn(2, 9, 4, 3).double(), torch.rand(2, 4, 9).double(), torch.randn(2, 4, 3).double()
    want = running(angle, dt, start)
    out, last = ops.angle_dt_fwd(angle, dt, start, return_output_state=True)
    torch.testing.assert_close(out, torch.stack(want, dim=1))
    torch.testing.assert_close(last, want[-1])
    torch.testing.assert_close(ops.angle_dt_fwd(angle, dt), torch.stack(running(angle, dt, 0 * start), dim=1))


def test_running_angles_of_packed_sequences() -> None:
    borders = [0, 4, 4, 9]
    angle, dt, start = torch.randn(1, 9, 4, 3).double(), torch.rand(1, 4, 9).double(), torch.randn(3, 4, 3).double()
    out, last = ops.angle_dt_fwd(angle, dt, start, return_output_state=True, cu_seqlens=torch.tensor(borders))
    for i, (first, end) in enumerate(zip(borders[:-1], borders[1:])):
        want = running(angle[:, first:end], dt[:, :, first:end], start[i : i + 1])
        torch.testing.assert_close(last[i : i + 1], want[-1] if want else start[i : i + 1])
        if want:
            torch.testing.assert_close(out[:, first:end], torch.stack(want, dim=1))


@pytest.mark.parametrize(
    "change,words",
    [
        ({"Bstate": torch.zeros(2, 3, 4, 16)}, ["Bstate", "(2, 3, 4, 16)", "(2, 4, 4, 16)"]),
        ({"zproj": None}, ["zproj", "None"]),
        ({"D": torch.zeros(4, 12)}, ["D", "(nheads,)"]),
    ],
)
def test_refused(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ArgumentError) as caught:
        ops.mamba3_state_update(**{**inputs(), **change})
    for word in (OP, *words):
        assert word in str(caught.value)

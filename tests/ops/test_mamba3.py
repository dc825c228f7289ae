"""mamba3_siso and its forms on every backend, and properties that hold whatever computes it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops import layouts
from tests.ops.harness import Case, check, parametrize
from torch import Tensor

from anymamba import ops
from anymamba.backends.opspec import Build
from anymamba.errors import ArgumentError
from anymamba.ops.mamba3 import SPEC, STATES, build
from anymamba.reference import mamba3 as exact

OP = "mamba3_siso"


def scan(
    batch: int = 2, length: int = 63, nheads: int = 4, headdim: int = 12, ngroups: int = 2, d_state: int = 16, num_angles: int = 4,
    given: tuple[str, ...] = ("D", "Z"), states: bool = False, return_final_states: bool = False, **options: Any,
) -> Build:  # fmt: skip
    options |= {"given": (*given, *(STATES if states else ())), "return_final_states": return_final_states}
    return build(length, batch, nheads, headdim, ngroups, d_state, num_angles, **options)


WITH_STATES: dict[str, Any] = {"states": True, "return_final_states": True}
SIZES = [
    (1, 3, 5, 16, 8), (2, 4, 7, 2, 1), (63, 3, 19, 8, 3), (64, 2, 32, 16, 0), (65, 2, 5, 16, 4), (523, 2, 5, 16, 4), (130, 2, 64, 128, 32)
]  # fmt: skip
PACKED = [0, 1, 1, 20, 34, 63]

CASES = [
    Case(OP, f"length{length}-heads{nheads}-headdim{headdim}-state{d_state}-angles{num_angles}",
         scan(2, length, nheads, headdim, 1, d_state, num_angles, **WITH_STATES))
    for length, nheads, headdim, d_state, num_angles in SIZES
] + [
    Case(OP, "long", scan(1, 4097, 2, 8, 1, 16, 4, decay=0.1, **WITH_STATES), slow=True),
    Case(OP, "nothing-optional", scan(given=())),
    Case(OP, "only-D", scan(given=("D",))),
    Case(OP, "only-Z", scan(given=("Z",))),
    Case(OP, "groups-as-many-as-heads", scan(ngroups=4)),
    Case(OP, "six-heads-three-groups", scan(nheads=6, ngroups=3)),
    Case(OP, "final-states", scan(return_final_states=True)),
    Case(OP, "initial-states", scan(states=True)),
    Case(OP, "slow-decay", scan(length=300, decay=1e-4, **WITH_STATES)),
    Case(OP, "no-decay-at-all", scan(decay=0.0)),
    Case(OP, "decay-that-underflows", scan(decay=200.0, **WITH_STATES)),
    Case(OP, "chunk-of-one", scan(length=9, chunk_size=1, **WITH_STATES)),
    Case(OP, "packed", scan(1, borders=PACKED)),
    Case(OP, "packed-final-states", scan(1, borders=PACKED, return_final_states=True)),
    Case(OP, "packed-states", scan(1, borders=PACKED, **WITH_STATES)),
    Case(OP, "packed-one-sequence", scan(1, borders=[0, 63], **WITH_STATES)),
    Case(OP, "views-into-a-projection", scan(headdim=32),
         {"V": lambda V: V[..., 3:15], "Z": lambda Z: Z[..., 7:19], "ADT": lambda t: t.mT.contiguous().mT}),
    Case(OP, "strided", scan(headdim=24, d_state=32, num_angles=8, given=("Z",)),
         {**dict.fromkeys(("V", "Z", "Q", "K", "Angles"), layouts.every_second),
          **dict.fromkeys(("Q_bias", "K_bias"), lambda bias: bias[:, :16])}),
    Case(OP, "heads-before-length", scan(), {name: lambda t: t.transpose(1, 2).contiguous().transpose(1, 2) for name in ("V", "K")}),
    Case(OP, "one-angle-for-all-heads", scan(), {"Angles": lambda t: t[:, :, :1].expand(-1, -1, 4, -1)}, slack=4),
    Case(OP, "expanded-batch", scan(1, given=("Z",)),
         {n: layouts.over_batch(3) for n in ("Q", "K", "V", "ADT", "DT", "Trap", "Angles", "Z")}, slack=4),
]  # fmt: skip


@parametrize(CASES)
def test_scan(case: Case, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, backend, dtype, monkeypatch)


def inputs(batch: int = 2, length: int = 11, nheads: int = 4, headdim: int = 3, ngroups: int = 2, d_state: int = 8) -> dict[str, Tensor]:
    given = scan(batch, length, nheads, headdim, ngroups, d_state, 3)(lambda *shape: torch.randn(*shape, dtype=torch.float64))
    return {name: value for name, value in given.items() if isinstance(value, Tensor)}


def test_reference_equals_the_matrix_form() -> None:
    """Y = M V with M[t, s] = exp(ADT[s+1] + ... + ADT[t]) (gamma[s] + beta[s+1]) q[t] . k[s] below the diagonal and
    gamma[t] q[t] . k[t] on it: Mamba-3, section 3, with no recurrence and with angles summed at once."""
    given = inputs()
    length = 11
    angles = (torch.tanh(given["Angles"]) * (math.pi * given["DT"].mT[..., None])).cumsum(1)

    def turned(x: Tensor, bias: Tensor) -> Tensor:
        biased = x.repeat_interleave(2, dim=2) + bias
        pairs = torch.view_as_complex(biased.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones(()).double(), torch.nn.functional.pad(angles, (0, 1)))).flatten(-2)

    q, k = turned(given["Q"], given["Q_bias"]), turned(given["K"], given["K_bias"])
    trap, dt = torch.sigmoid(given["Trap"]), given["DT"]
    gamma, beta = trap * dt, (1 - trap) * dt
    total = given["ADT"].cumsum(-1)
    below = torch.ones(length, length).tril(-1).bool()
    decay = (total[..., :, None] - total[..., None, :]).masked_fill(~below, -torch.inf).exp()
    scale = decay * (gamma + torch.nn.functional.pad(beta[..., 1:], (0, 1)))[..., None, :] + torch.diag_embed(gamma)
    y = torch.einsum("bthn,bshn,bhts,bshp->bthp", q, k, scale, given["V"])
    want = (y + given["D"][:, None] * given["V"]) * torch.nn.functional.silu(given["Z"])
    torch.testing.assert_close(exact.mamba3_siso(**given), want)


def test_euler_without_rotation_is_mamba2() -> None:
    """trap = 1 and no turning: h = a h + dt x B^T, Mamba-2's recurrence."""
    given = inputs()
    given.update(Trap=torch.full_like(given["Trap"], 60.0), Angles=torch.zeros_like(given["Angles"]))
    A = -torch.rand(4).double()
    given["ADT"] = A[:, None] * given["DT"]
    for bias in ("Q_bias", "K_bias"):
        given[bias] = torch.zeros_like(given[bias])
    want = ops.mamba_chunk_scan_combined(
        given["V"], given["DT"].mT, A, given["K"], given["Q"], 4, D=given["D"], z=given["Z"], backend="reference"
    )
    torch.testing.assert_close(ops.mamba3_siso(**given), want)


def test_reference_gradients() -> None:
    given = {name: value.requires_grad_() for name, value in inputs(1, 4, 2, 2, 1, 6).items()}
    states = [torch.randn(*s).double().requires_grad_() for s in ((1, 2, 3), (1, 2, 2, 6), (1, 2, 6), (1, 2, 2))]

    def run(*tensors: Tensor) -> Any:
        named = dict(zip((*given, *STATES), tensors))
        return exact.mamba3_siso(**named, return_final_states=True)

    assert torch.autograd.gradcheck(run, (*given.values(), *states))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 90), st.data())
def test_split_anywhere(length: int, data: st.DataObject) -> None:
    """A sequence in two parts, the states of the first given to the second, is the whole sequence."""
    cut = data.draw(st.integers(0, length))
    given = inputs(2, length)
    whole = ops.mamba3_siso(**given, return_final_states=True)
    by_head = ("ADT", "DT", "Trap")
    along = {name: (2 if name in by_head else 1) for name in given if name not in ("D", "Q_bias", "K_bias")}

    def part(first: int, end: int) -> dict[str, Tensor]:
        return {**given, **{name: given[name].narrow(axis, first, end - first) for name, axis in along.items()}}

    first, *states = ops.mamba3_siso(**part(0, cut), return_final_states=True)
    second, *final = ops.mamba3_siso_combined(**part(cut, length), Input_States=tuple(states), return_final_states=True)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole[0])
    for got, want in zip(final, whole[1:]):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_steps_equal_the_whole(dtype: torch.dtype) -> None:
    given = {name: value if name in SPEC.float32 else value.to(dtype) for name, value in inputs().items()}
    whole = ops.mamba3_siso_combined(**given, return_final_states=True)
    states = None
    outputs = []
    for t in range(11):
        now = {name: given[name][:, t] for name in ("Q", "K", "V", "Angles", "Z")}
        now.update({name: given[name][:, :, t] for name in ("ADT", "DT", "Trap")})
        out, states = ops.mamba3_siso_step(
            **now, Q_bias=given["Q_bias"], K_bias=given["K_bias"], D=given["D"], Input_States=states
        )
        outputs.append(out)
    assert states is not None
    for got, want in zip((torch.stack(outputs, dim=1), *states), whole):
        torch.testing.assert_close(got, want)


def test_packed_sequences_are_those_alone() -> None:
    given = inputs(1, 63)
    together = ops.mamba3_siso(**given, cu_seqlens=torch.tensor(PACKED))
    for first, end in zip(PACKED[:-1], PACKED[1:]):
        part = slice(first, end)
        alone = {name: given[name][:, part] for name in ("Q", "K", "V", "Angles", "Z")}
        alone.update({name: given[name][:, :, part] for name in ("ADT", "DT", "Trap")})
        shared = {name: given[name] for name in ("Q_bias", "K_bias", "D")}
        torch.testing.assert_close(together[:, part], ops.mamba3_siso(**alone, **shared))


def test_thousands_of_turns_keep_their_fraction() -> None:
    """float32 input, 30,000 tokens that turn by 3 a token: the angle at the end is off by no more than rounding of its terms."""
    given = {name: value.float() for name, value in inputs(1, 30_000, 2, 1, 1, 2).items()}
    given.update(Angles=torch.full((1, 30_000, 2, 1), 2.0), DT=torch.full((1, 2, 30_000), 1.0), ADT=torch.full((1, 2, 30_000), -1.0))
    _, angle, *_ = ops.mamba3_siso(**given, return_final_states=True, backend="torch")
    want = 30_000 * math.pi * torch.tanh(torch.tensor(2.0)).double() % (2 * math.pi)
    error = (angle.double() - want + math.pi) % (2 * math.pi) - math.pi
    assert error.abs().max() < 30_000 * 3e-7, "a sum in float32 would be off by 0.05 and more"


def test_the_last_value_is_not_a_view() -> None:
    given = inputs()
    *_, v_state = ops.mamba3_siso(**given, return_final_states=True)
    before = v_state.clone()
    given["V"].zero_()
    torch.testing.assert_close(v_state, before)


@pytest.mark.parametrize(
    "change,words",
    [
        ({"K": torch.zeros(2, 11, 2, 6)}, ["K", "(2, 11, 2, 6)", "(2, 11, 2, 8)"]),
        ({"V": torch.zeros(2, 11, 3, 3)}, ["ngroups = 2", "nheads = 3"]),
        ({"ADT": torch.zeros(2, 11, 4)}, ["ADT", "(2, 11, 4)", "(2, 4, 11)"]),
        ({"Angles": torch.zeros(2, 11, 4, 5)}, ["num_angles is 5", "d_state / 2 = 4"]),
        ({"Q_bias": torch.zeros(4, 1, 8)}, ["Q_bias", "(4, 1, 8)", "(nheads, d_state)"]),
        ({"D": torch.zeros(4, 3)}, ["D", "(4, 3)", "(nheads,)"]),
        ({"k_state": torch.zeros(2, 4, 8)}, ["Input_States", "k_state", "angle_state, ssm_state"]),
        ({"cu_seqlens": torch.tensor([0, 11])}, ["batch is 2", "cu_seqlens"]),
        ({"chunk_size": 0}, ["chunk_size is 0"]),
    ],
)
def test_refused(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ArgumentError) as caught:
        ops.mamba3_siso(**{**inputs(), **change})
    for word in ("mamba3_siso", *words):
        assert word in str(caught.value)


def test_borders_must_cover_the_row() -> None:
    for borders in ([0, 5], [1, 11], [0, 7, 5, 11]):
        with pytest.raises(ArgumentError, match="cu_seqlens"):
            ops.mamba3_siso(**inputs(1), cu_seqlens=torch.tensor(borders))

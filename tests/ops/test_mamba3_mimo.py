"""mamba3_mimo on every backend, and properties that hold whatever computes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.ops import layouts
from tests.ops.harness import Case, check, parametrize
from torch import Tensor

from anymamba import ops
from anymamba.backends.opspec import Build
from anymamba.errors import ArgumentError
from anymamba.ops.mamba3_mimo import build

OP = "mamba3_mimo"


ALL = ("MIMO_Out", "D", "Z")


def scan(
    batch: int = 2, length: int = 37, rank: int = 4, nheads: int = 4, headdim: int = 12, ngroups: int = 2, d_state: int = 16,
    divisor: int = 4, absent: tuple[str, ...] = (), return_state: bool = False, **options: Any,
) -> Build:  # fmt: skip
    options |= {"given": tuple(name for name in ALL if name not in absent), "return_state": return_state}
    return build(length, batch, nheads, headdim, ngroups, d_state, rank, rotary_dim_divisor=divisor, **options)


PACKED = [0, 1, 1, 20, 34, 37]
SIZES = [
    (2, 4, 2, 7, 2, 2), (15, 4, 3, 19, 8, 4), (16, 4, 2, 32, 16, 2), (33, 3, 2, 5, 8, 2), (400, 2, 2, 5, 16, 4), (70, 4, 2, 64, 128, 4)
]  # fmt: skip

CASES = [
    Case(OP, f"length{length}-rank{rank}-heads{nheads}-headdim{headdim}-state{d_state}-divisor{divisor}",
         scan(2, length, rank, nheads, headdim, 1, d_state, divisor, return_state=True))
    for length, rank, nheads, headdim, d_state, divisor in SIZES
] + [
    Case(OP, "rank-of-one", scan(rank=1, return_state=True)),
    Case(OP, "rank-of-eight", scan(rank=8)),
    Case(OP, "without-D", scan(absent=("D",))),
    Case(OP, "without-Z", scan(absent=("Z",))),
    Case(OP, "ranks-apart", scan(absent=("MIMO_Out",), return_state=True)),
    Case(OP, "ranks-apart-ungated", scan(absent=("MIMO_Out", "Z", "D"))),
    Case(OP, "groups-as-many-as-heads", scan(ngroups=4)),
    Case(OP, "packed", scan(1, borders=PACKED)),
    Case(OP, "packed-final-states", scan(1, borders=PACKED, return_state=True)),
    Case(OP, "strided", scan(headdim=24, d_state=32, divisor=4),
         {**dict.fromkeys(("V", "Z", "Q", "K", "Angles", "MIMO_V", "MIMO_Z", "MIMO_Out"), layouts.every_second),
          **dict.fromkeys(("Q_bias", "K_bias"), lambda bias: bias[..., 16:])}),
    Case(OP, "rank-before-length", scan(), {name: lambda t: t.transpose(1, 2).contiguous().transpose(1, 2) for name in ("Q", "K")}),
]  # fmt: skip


@parametrize(CASES)
def test_scan(case: Case, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, backend, dtype, monkeypatch)


def inputs(batch: int = 2, length: int = 11, **sizes: Any) -> dict[str, Any]:
    given = scan(batch, length, **sizes)(lambda *shape: torch.randn(*shape, dtype=torch.float64))
    del given["return_state"]
    return given


def test_rank_one_is_siso_with_other_pairs() -> None:
    """Rank 1 with projections of one is SISO, its pairs (i, d_state / 2 + i) laid side by side."""
    given = inputs(rank=1, d_state=8, divisor=2)
    mimo = ops.mamba3_mimo(**{**given, **{name: torch.ones(4, 1, 12).double() for name in ("MIMO_V", "MIMO_Z", "MIMO_Out")}})
    beside = torch.arange(8).view(2, 4).mT.flatten()
    siso = ops.mamba3_siso(
        given["Q"][:, :, 0][..., beside], given["K"][:, :, 0][..., beside], given["V"], given["ADT"], given["DT"], given["Trap"],
        given["Q_bias"][:, 0][:, beside], given["K_bias"][:, 0][:, beside], given["Angles"], given["D"], given["Z"],
    )  # fmt: skip
    torch.testing.assert_close(mimo, siso)


def test_ranks_apart_sum_to_the_whole() -> None:
    given = inputs()
    apart = ops.mamba3_mimo(**{**given, "MIMO_Out": None})
    assert apart.shape == (2, 11, 4, 4, 12)
    together = (apart * given["MIMO_Out"].transpose(0, 1)).sum(2)
    torch.testing.assert_close(together, ops.mamba3_mimo(**given))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_output_has_the_dtype_asked_for(dtype: torch.dtype) -> None:
    given = {name: v.float() if isinstance(v, Tensor) else v for name, v in inputs().items()}
    out, angle, ssm, k, v = ops.mamba3_mimo(**{**given, "dtype": dtype}, return_state=True)
    assert out.dtype == dtype
    assert angle.dtype == ssm.dtype == k.dtype == v.dtype == torch.float32
    torch.testing.assert_close(out.float(), ops.mamba3_mimo(**given), rtol=0.01, atol=0.05)


def test_packed_sequences_are_those_alone() -> None:
    given = inputs(1, 37)
    together = ops.mamba3_mimo(**given, cu_seqlens=torch.tensor(PACKED))
    for first, end in zip(PACKED[:-1], PACKED[1:]):
        part = slice(first, end)
        alone = {name: given[name][:, part] for name in ("Q", "K", "V", "Angles", "Z")}
        alone.update({name: given[name][:, :, part] for name in ("ADT", "DT", "Trap")})
        torch.testing.assert_close(together[:, part], ops.mamba3_mimo(**{**given, **alone}))


@pytest.mark.parametrize(
    "change,words",
    [
        ({"K": torch.zeros(2, 11, 4, 2, 8)}, ["K", "(2, 11, 4, 2, 8)", "(2, 11, 4, 2, 16)"]),
        ({"MIMO_V": torch.zeros(4, 3, 12)}, ["MIMO_V", "(4, 3, 12)", "(4, 4, 12)"]),
        ({"MIMO_Z": None}, ["MIMO_Z", "None"]),
        ({"rotary_dim_divisor": 3}, ["rotary_dim_divisor is 3", "2 / 4"]),
        ({"rotary_dim_divisor": 2}, ["num_angles is 4", "8"]),
        ({"Q_bias": torch.zeros(4, 16)}, ["Q_bias", "(4, 16)", "(nheads, rank, d_state)"]),
        ({"cu_seqlens": torch.tensor([0, 11])}, ["batch is 2"]),
    ],
)
def test_refused(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ArgumentError) as caught:
        ops.mamba3_mimo(**{**inputs(), **change})
    for word in ("mamba3_mimo", *words):
        assert word in str(caught.value)

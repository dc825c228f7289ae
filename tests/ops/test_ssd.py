"""mamba_chunk_scan_combined on every backend, and properties that hold whatever computes it."""

from __future__ import annotations

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
from anymamba.ops.ssd import build
from anymamba.reference import ssd as exact

OP = "mamba_chunk_scan_combined"
ALL = ("D", "z", "dt_bias")


def scan(
    batch: int = 2, length: int = 63, nheads: int = 4, headdim: int = 12, ngroups: int = 2, d_state: int = 16,
    given: tuple[str, ...] = ALL, return_final_states: bool = False, **options: Any,
) -> Build:  # fmt: skip
    without = tuple({*ALL, "initial_states"} - set(given))
    options |= {"without": without, "return_final_states": return_final_states}
    return build(length, batch, nheads, headdim, ngroups, d_state, **options)


STATES = {"given": (*ALL, "initial_states"), "return_final_states": True}
SIZES = [
    (1, 3, 5, 16), (2, 4, 7, 1), (63, 3, 19, 8), (64, 2, 32, 16), (523, 2, 5, 16), (129, 2, 24, 64), (37, 2, 9, 256), (130, 2, 64, 128)
]  # fmt: skip
DOCUMENTS = [0] * 5 + [1] + [2] * 20 + [3] * 6 + [5] * 31
PADDED = [-1] * 3 + [7] * 9 + [-1] * 4 + [7] * 7 + [8] * 20 + [-1] * 20

CASES = [
    Case(OP, f"length{length}-heads{nheads}-headdim{headdim}-state{d_state}",
         scan(length=length, nheads=nheads, headdim=headdim, ngroups=1, d_state=d_state, **STATES))
    for length, nheads, headdim, d_state in SIZES
] + [
    Case(OP, "long", scan(1, 4097, 2, 8, 1, 16, chunk_size=256, **STATES), slow=True),
    Case(OP, "nothing-optional", scan(given=(), dt_softplus=False)),
    Case(OP, "only-D", scan(given=("D",))),
    Case(OP, "only-z", scan(given=("z",))),
    Case(OP, "only-dt-bias", scan(given=("dt_bias",))),
    Case(OP, "D-per-channel", scan(D_per_channel=True)),
    Case(OP, "groups-as-many-as-heads", scan(ngroups=4)),
    Case(OP, "six-heads-three-groups", scan(nheads=6, ngroups=3)),
    Case(OP, "final-states", scan(return_final_states=True)),
    Case(OP, "initial-states", scan(given=("initial_states",))),
    Case(OP, "dt-limit", scan(dt_limit=(0.3, 1.1))),
    Case(OP, "chunk-of-one", scan(length=9, chunk_size=1, **STATES)),
    Case(OP, "chunk-not-a-power-of-two", scan(chunk_size=11, **STATES)),
    Case(OP, "chunk-longer-than-the-sequence", scan(chunk_size=256, **STATES)),
    Case(OP, "documents", scan(documents=DOCUMENTS, return_final_states=True)),
    Case(OP, "documents-initial-states", scan(documents=[4] * 20 + [5] * 43, **STATES)),
    Case(OP, "documents-within-a-chunk", scan(documents=[0, 1, 1, 2, 0] + [9] * 58, chunk_size=64, **STATES)),
    Case(OP, "documents-padding", scan(documents=PADDED, **STATES)),
    Case(OP, "documents-all-padding", scan(length=20, documents=[-1] * 20, **STATES)),
    Case(OP, "a-document-a-token", scan(length=20, documents=list(range(20)), return_final_states=True)),
    Case(OP, "varlen-states", scan(1, documents=[0] * 20 + [1] * 43, borders=[0, 20, 63], return_varlen_states=True), forward_only=True),
    Case(OP, "varlen-states-all", scan(1, documents=[0] * 5 + [1] * 30 + [2] * 20 + [-1] * 8, borders=[0, 5, 35, 55, 55],
         return_varlen_states=True, **STATES), forward_only=True),
    Case(OP, "varlen-states-without-documents", scan(1, borders=[0, 20, 20, 63], return_varlen_states=True, **STATES), forward_only=True),
    Case(OP, "views-into-a-projection", scan(headdim=32, d_state=16, ngroups=2),
         {"x": lambda x: x[..., 3:15], "z": lambda z: z[..., 7:19], "B": lambda B: B[..., ::1], "dt": lambda dt: dt.mT.contiguous().mT}),
    Case(OP, "strided", scan(headdim=24, d_state=32, given=("z",)), dict.fromkeys(("x", "z", "B", "C"), layouts.every_second)),
    Case(OP, "heads-before-length", scan(), {name: lambda t: t.transpose(1, 2).contiguous().transpose(1, 2) for name in ("x", "B")}),
    Case(OP, "expanded-batch", scan(1, given=("z",)), {n: layouts.over_batch(3) for n in ("x", "dt", "B", "C", "z")}, slack=4),
    Case(OP, "expanded-headdim", scan(given=(), headdim=1), {"x": lambda x: x.expand(-1, -1, -1, 12)}, slack=4),
]  # fmt: skip


@parametrize(CASES)
def test_scan(case: Case, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, backend, dtype, monkeypatch)


def inputs(batch: int, length: int, nheads: int = 4, headdim: int = 3, ngroups: int = 2, d_state: int = 5) -> list[Tensor]:
    x, dt = torch.randn(batch, length, nheads, headdim), torch.rand(batch, length, nheads)
    B, C = (torch.randn(batch, length, ngroups, d_state) for _ in "BC")
    return [x, dt, -torch.rand(nheads), B, C]


def test_reference_equals_the_matrix_form() -> None:
    """Y = (L o C B^T) (dt X), with L[t, s] = exp(A (dt[s+1] + ... + dt[t])): Mamba-2, equation 6, with no recurrence."""
    x, dt, A, B, C = (t.double() for t in inputs(2, 11))
    before = torch.randn(2, 4, 3, 5).double()
    cumulative = (dt * A).cumsum(1)  # (batch, length, nheads)
    later = torch.ones(11, 11).bool().triu(1)[None, :, :, None]
    decay = (cumulative[:, :, None] - cumulative[:, None]).masked_fill(later, -torch.inf).exp()
    B, C = B.repeat_interleave(2, dim=2), C.repeat_interleave(2, dim=2)
    scores = torch.einsum("bthn,bshn->btsh", C, B) * decay
    want = torch.einsum("btsh,bsh,bshp->bthp", scores, dt, x)
    want = want + torch.einsum("bthn,bth,bhpn->bthp", C, cumulative.exp(), before)
    final = torch.einsum("bsh,bsh,bshp,bshn->bhpn", (cumulative[:, -1:] - cumulative).exp(), dt, x, B)
    final = final + cumulative[:, -1].exp()[:, :, None, None] * before
    y, state = exact.mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size=4, initial_states=before, return_final_states=True)
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(state, final)


def test_reference_gradients() -> None:
    x, dt, A, B, C = (t.double().requires_grad_() for t in inputs(1, 4, 2, 2, 1, 2))
    D, z, bias, before = (torch.randn(*s).double().requires_grad_() for s in ((2, 2), (1, 4, 2, 2), (2,), (1, 2, 2, 2)))
    documents = torch.tensor([[3, 3, -1, 4]])

    def function(*given: Tensor) -> Any:
        *five, D, z, bias, before = given
        return exact.mamba_chunk_scan_combined(
            *five, 2, D, z, bias, before, documents, dt_softplus=True, dt_limit=(0.01, 5.0), return_final_states=True
        )

    assert torch.autograd.gradcheck(function, (x, dt, A, B, C, D, z, bias, before))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**20))
def test_splitting_equals_one_pass(first: int, second: int, chunk: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, dt, A, B, C = inputs(2, first + second)

    def run(tokens: slice, before: Tensor | None) -> Any:
        part = [x[:, tokens], dt[:, tokens], A, B[:, tokens], C[:, tokens]]
        return ops.mamba_chunk_scan_combined(*part, chunk, initial_states=before, return_final_states=True)

    whole, final = run(slice(None), None)
    left, middle = run(slice(0, first), None)
    right, last = run(slice(first, None), middle)
    torch.testing.assert_close(torch.cat([left, right], 1), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(last, final, rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 20), st.integers(0, 2**20))
def test_packed_documents_equal_separate_ones(lengths: list[int], chunk: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, dt, A, B, C = inputs(1, sum(lengths))
    borders = torch.tensor([0, *lengths]).cumsum(0).int()
    ids = torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), torch.tensor(lengths))[None]
    packed, final, states = ops.mamba_chunk_scan_combined(
        x, dt, A, B, C, chunk, seq_idx=ids, cu_seqlens=borders, return_final_states=True, return_varlen_states=True
    )
    alone = []
    for start, end in zip(borders[:-1].tolist(), borders[1:].tolist()):
        part = [x[:, start:end], dt[:, start:end], A, B[:, start:end], C[:, start:end]]
        alone.append(ops.mamba_chunk_scan_combined(*part, chunk, return_final_states=True))
    torch.testing.assert_close(packed, torch.cat([y for y, _ in alone], 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(states, torch.cat([state for _, state in alone]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(final, alone[-1][1], rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 30), st.integers(1, 20), st.integers(0, 2**20))
def test_steps_equal_the_scan(length: int, chunk: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, dt, A, B, C = inputs(2, length)
    D, bias, z = torch.randn(4), torch.randn(4), torch.randn_like(x)
    y, final = ops.mamba_chunk_scan_combined(
        x, dt, A, B, C, chunk, D, z, bias, dt_softplus=True, return_final_states=True
    )
    state = torch.zeros(2, 4, 3, 5)
    wide = [t[:, None].expand(4, 3) for t in (D, bias)]
    for t in range(length):
        out = ops.selective_state_update(
            state, x[:, t], dt[:, t, :, None].expand(-1, -1, 3), A[:, None, None].expand(4, 3, 5), B[:, t], C[:, t], wide[0], z[:, t],
            wide[1], True,
        )  # fmt: skip
        torch.testing.assert_close(out, y[:, t], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state, final, rtol=1e-4, atol=1e-4)


def test_padding_is_as_if_it_were_not_there() -> None:
    x, dt, A, B, C = inputs(1, 20)
    ids = torch.tensor([[-1, -1, 5, 5, 5, -1, 5, 5, 6, 6, 6, -1, -1, 6, 6, 7, 7, 7, 7, -1]])
    real = ids[0] >= 0
    before = torch.randn(1, 4, 3, 5)
    options: dict[str, Any] = {"chunk_size": 8, "initial_states": before, "return_final_states": True}
    padded, final = ops.mamba_chunk_scan_combined(x, dt, A, B, C, seq_idx=ids, **options)
    dense, dense_final = ops.mamba_chunk_scan_combined(
        *(t[:, real] for t in (x, dt)), A, *(t[:, real] for t in (B, C)), seq_idx=ids[:, real], **options
    )
    torch.testing.assert_close(padded[:, real], dense, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(final, dense_final, rtol=1e-4, atol=1e-5)
    assert not padded[:, ~real].any()


def test_a_negative_step_counts_as_zero() -> None:
    """mamba_ssm clamps dt to dt_limit with and without softplus."""
    x, dt, A, B, C = inputs(1, 30)
    dt = dt - 0.5
    got = ops.mamba_chunk_scan_combined(x, dt, A, B, C, 8)
    torch.testing.assert_close(got, ops.mamba_chunk_scan_combined(x, dt.clamp(min=0), A, B, C, 8))
    got = ops.mamba_chunk_scan_combined(x, dt, A, B, C, 8, dt_limit=(-1.0, 1.0))
    want = exact.mamba_chunk_scan_combined(*(t.double() for t in (x, dt, A, B, C)), 8, dt_limit=(-1.0, 1.0))
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch,length", [(2, 0), (0, 7)])
def test_nothing_to_do(batch: int, length: int) -> None:
    x, dt, A, B, C = inputs(batch, length)
    before = torch.randn(batch, 4, 3, 5).requires_grad_()
    y, final = ops.mamba_chunk_scan_combined(
        x.requires_grad_(), dt, A, B, C, 8, initial_states=before, return_final_states=True
    )
    assert y.shape == x.shape
    if not length:
        torch.testing.assert_close(final, before)
    (y.sum() + final.sum()).backward()
    assert before.grad is not None

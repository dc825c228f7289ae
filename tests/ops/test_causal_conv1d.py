"""causal_conv1d_fn and causal_conv1d_update on every backend, and properties that hold whatever computes them."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops import layouts
from tests.ops.harness import DTYPES, Case, check, parametrize

from anymamba import ops
from anymamba.backends.opspec import Build
from anymamba.ops.causal_conv1d import build, build_step
from anymamba.reference import causal_conv1d as exact


def sequence(
    batch: int = 2, dim: int = 20, length: int = 63, width: int = 4, bias: bool = True, initial: bool = False, last_axis: bool = False,
    activation: str | None = None, **options: Any,
) -> Build:  # fmt: skip
    """last_axis: x is built as (batch, length, dim) for the channels_last view."""
    without = (*(() if bias else ("bias",)), *(() if initial else ("initial_states",)))
    layout = "rows" if last_axis else "length"
    return build(length, batch, dim, width, layout, without=without, activation=activation, **options)


DOCUMENTS = [0] * 5 + [1] + [2] * 20 + [-1] * 4 + [3] * 2 + [5] * 31
CASES = [
    Case("causal_conv1d_fn", f"length{length}-dim{dim}-width{width}", sequence(2, dim, length, width, activation="silu"))
    for length, dim, width in [(1, 3, 4), (2, 7, 3), (63, 19, 2), (1000, 5, 4), (64, 32, 4), (63, 17, 1), (20, 9, 7), (5, 3, 9)]
] + [
    Case("causal_conv1d_fn", "no-activation", sequence()),
    Case("causal_conv1d_fn", "swish-no-bias", sequence(bias=False, activation="swish")),
    Case("causal_conv1d_fn", "channels-last", sequence(last_axis=True, activation="silu"), {"x": layouts.channels_last}),
    Case("causal_conv1d_fn", "channels-last-wide", sequence(1, 72, 130, last_axis=True, activation="silu"), {"x": layouts.channels_last}),
    Case("causal_conv1d_fn", "part-of-a-projection", sequence(dim=23, last_axis=True, activation="silu", bias=False),
         {"x": lambda x: x[:, :, 1:-2].mT, "weight": lambda w: w[1:-2]}),
    Case("causal_conv1d_fn", "strided", sequence(length=40, activation="silu"), {"x": layouts.every_second}),
    Case("causal_conv1d_fn", "expanded", sequence(1, activation="silu"), {"x": layouts.over_batch(3)}),
    Case("causal_conv1d_fn", "initial-states", sequence(initial=True, activation="silu")),
    Case("causal_conv1d_fn", "final-states", sequence(last_axis=True, return_final_states=True), {"x": layouts.channels_last}),
    Case("causal_conv1d_fn", "both-states", sequence(initial=True, return_final_states=True, activation="silu")),
    Case("causal_conv1d_fn", "both-states-short", sequence(length=2, initial=True, return_final_states=True, activation="silu")),
    Case("causal_conv1d_fn", "documents", sequence(documents=DOCUMENTS, activation="silu")),
    Case("causal_conv1d_fn", "documents-channels-last", sequence(documents=DOCUMENTS, last_axis=True), {"x": layouts.channels_last}),
    Case("causal_conv1d_fn", "documents-initial-states", sequence(documents=[4] * 2 + [5] * 61, initial=True, activation="silu")),
    Case("causal_conv1d_fn", "long", sequence(1, 13, 4097, activation="silu"), slow=True),
]  # fmt: skip


@parametrize(CASES)
def test_sequence(case: Case, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, backend, dtype, monkeypatch)


step = functools.partial(build_step, 3, activation=None)

STEPS = [
    Case("causal_conv1d_update", name, build, views, forward_only=True)
    for name, build, views in [
        ("plain", step(), {}),
        ("silu", step(activation="silu"), {}),
        ("no-bias", step(bias=False, activation="swish"), {}),
        ("one-token-axis", step(steps=1, activation="silu"), {}),
        ("several", step(steps=4, activation="silu"), {}),
        ("more-than-the-state", step(steps=9, activation="silu"), {}),
        ("tight-state", step(state_len=3, activation="silu"), {}),
        ("long-state", step(state_len=11, steps=2, activation="silu"), {}),
        ("width2", step(width=2, state_len=2), {}),
        ("width1", step(width=1, state_len=1), {}),
        ("odd-dim", step(dim=5, activation="silu"), {}),
        ("circular", step(state_len=5, seen=[0, 3, 17], activation="silu"), {}),
        ("circular-tight", step(state_len=3, seen=[0, 3, 8], activation="silu"), {}),
        ("circular-several", step(state_len=7, steps=3, seen=[2, 6, 13], activation="silu"), {}),
        ("rows", step(rows=6, indices=[4, 0, 2], activation="silu"), {}),
        ("padding", step(rows=6, indices=[4, -1, 2], activation="silu"), {}),
        ("padding-circular", step(rows=6, state_len=5, indices=[-1, 5, 2], seen=[1, 2, 9], steps=2, activation="silu"), {}),
        ("strided-state", step(state_len=8, activation="silu"), {"conv_state": layouts.every_second}),
        ("channels-last-state", step(dim=4, state_len=20), {"conv_state": layouts.channels_last, "x": lambda x: x.repeat(1, 5),
                                                           "weight": lambda w: w.repeat(5, 1), "bias": lambda b: b.repeat(5)}),
        ("strided-x", step(dim=20), {"x": layouts.every_second, "conv_state": lambda s: s[:, :10], "weight": lambda w: w[:10],
                                     "bias": lambda b: b[::2]}),
    ]
]  # fmt: skip


@parametrize(STEPS)
def test_step(case: Case, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, backend, dtype, monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_of_another_dtype(dtype: torch.dtype) -> None:
    """Autocast leaves float32 weights beside 16-bit activations."""
    x, weight, bias = torch.randn(2, 6, 9, dtype=dtype), torch.randn(6, 4), torch.randn(6)
    out = ops.causal_conv1d_fn(x, weight, bias, activation="silu")
    want = exact.causal_conv1d_fn(x.double(), weight.double(), bias.double(), activation="silu")
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), want, rtol=2 * torch.finfo(dtype).eps, atol=2 * torch.finfo(dtype).eps)


def test_reference_equals_conv1d_of_torch() -> None:
    x, weight, bias = torch.randn(2, 6, 30).double(), torch.randn(6, 5).double(), torch.randn(6).double()
    want = F.conv1d(F.pad(x, (4, 0)), weight[:, None], bias, groups=6)
    torch.testing.assert_close(exact.causal_conv1d_fn(x, weight, bias), want)
    torch.testing.assert_close(exact.causal_conv1d_fn(x, weight, bias, activation="silu"), F.silu(want))


def test_reference_gradients() -> None:
    inputs = [torch.randn(*shape).double().requires_grad_() for shape in ((2, 3, 6), (3, 4), (3,), (2, 3, 3))]
    documents = torch.tensor([[0, 0, 1, 1, -1, 2]] * 2)
    assert torch.autograd.gradcheck(
        lambda x, w, b, s: exact.causal_conv1d_fn(x, w, b, initial_states=s, return_final_states=True, activation="silu"), inputs
    )
    assert torch.autograd.gradcheck(lambda x, w, b, s: exact.causal_conv1d_fn(x, w, b, documents, s), inputs)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(0, 30), st.integers(1, 5), st.integers(0, 2**20))
def test_splitting_equals_one_pass(first: int, second: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight, bias = torch.randn(2, 5, first + second), torch.randn(5, width), torch.randn(5)
    whole, state = ops.causal_conv1d_fn(x, weight, bias, return_final_states=True, activation="silu")
    left, middle = ops.causal_conv1d_fn(x[:, :, :first], weight, bias, return_final_states=True, activation="silu")
    right, final = ops.causal_conv1d_fn(
        x[:, :, first:], weight, bias, initial_states=middle, return_final_states=True, activation="silu"
    )
    torch.testing.assert_close(torch.cat([left, right], 2), whole)
    torch.testing.assert_close(final, state)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 4), st.booleans(), st.integers(0, 2**20))
def test_steps_equal_the_sequence(length: int, width: int, spare: int, circular: bool, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight, bias = torch.randn(2, 5, length), torch.randn(5, width), torch.randn(5)
    whole = ops.causal_conv1d_fn(x, weight, bias, activation="silu")
    state = torch.zeros(2, 5, max(width - 1 + spare, 1))
    for t in range(length):
        seen = torch.full((2,), t, dtype=torch.int32) if circular else None
        out = ops.causal_conv1d_update(x[:, :, t], state, weight, bias, "silu", seen)
        torch.testing.assert_close(out, whole[:, :, t])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 2**20))
def test_packed_documents_equal_separate_ones(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    x, weight, bias = torch.randn(1, 5, sum(lengths)), torch.randn(5, 4), torch.randn(5)
    ids = torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), torch.tensor(lengths))[None]
    packed = ops.causal_conv1d_fn(x, weight, bias, seq_idx=ids, activation="silu")
    alone = [ops.causal_conv1d_fn(part, weight, bias, activation="silu") for part in x.split(lengths, dim=2)]
    torch.testing.assert_close(packed, torch.cat(alone, 2))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 5))
def test_varlen_states(lengths: list[int], state_len: int) -> None:
    x = torch.randn(sum(lengths), 3)
    borders = torch.tensor([0, *lengths]).cumsum(0).int()
    torch.testing.assert_close(
        ops.causal_conv1d_varlen_states(x, borders, state_len), exact.causal_conv1d_varlen_states(x, borders, state_len)
    )


@pytest.mark.parametrize("shape", [(2, 5, 0), (0, 5, 7)])
def test_nothing_to_do(shape: tuple[int, ...]) -> None:
    x, state = torch.randn(shape).requires_grad_(), torch.randn(shape[0], 5, 3).requires_grad_()
    weight = torch.randn(5, 4).requires_grad_()
    out, final = ops.causal_conv1d_fn(x, weight, initial_states=state, return_final_states=True)
    assert out.shape == shape
    torch.testing.assert_close(final, state)
    (out.sum() + final.sum()).backward()
    torch.testing.assert_close(state.grad, torch.ones_like(state))


def test_final_states_out_is_filled() -> None:
    x, weight, buffer = torch.randn(2, 5, 9), torch.randn(5, 4), torch.zeros(2, 5, 3)
    _, final = ops.causal_conv1d_fn(x, weight, return_final_states=True, final_states_out=buffer)
    torch.testing.assert_close(buffer, x[:, :, -3:])
    torch.testing.assert_close(final, buffer)

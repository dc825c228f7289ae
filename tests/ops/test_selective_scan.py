"""selective_scan_fn on every backend, and properties that hold whatever computes it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops import layouts
from tests.ops.harness import Case, check, parametrize

from anymamba import ops
from anymamba.backends.opspec import Build
from anymamba.ops.selective_scan import build, selective_scan
from anymamba.reference import selective_scan as exact

ALL = ("D", "z", "delta_bias")


def scan(
    batch: int = 2, dim: int = 18, length: int = 63, given: tuple[str, ...] = ALL, groups: int = 0, last_axis: bool = False,
    delta_softplus: bool = False, **options: Any,
) -> Build:  # fmt: skip
    """last_axis: u, delta, z, B, C are built with channels last, for the views CHANNELS_LAST."""
    without, layout = tuple(set(ALL) - set(given)), "rows" if last_axis else "length"
    return build(
        length, batch, dim, ngroups=groups, without=without, layout=layout, delta_softplus=delta_softplus, dt=-1.0, **options
    )


CHANNELS_LAST = dict.fromkeys(("u", "delta", "z", "B", "C"), layouts.channels_last)
SIZES = [(1, 5, 16), (2, 7, 1), (63, 19, 8), (64, 32, 16), (523, 5, 16), (129, 5, 64), (63, 67, 5)]


def full(**sizes: Any) -> Build:
    return scan(delta_softplus=True, last_axis=True, **sizes)


CASES = [
    Case("selective_scan_fn", f"length{length}-dim{dim}-state{d_state}", full(dim=dim, length=length, d_state=d_state), CHANNELS_LAST)
    for length, dim, d_state in SIZES
] + [
    Case("selective_scan_fn", "long", full(dim=5, length=4097), CHANNELS_LAST, slow=True),
    # kernels that keep the state in registers take long to compile for so many
    Case("selective_scan_fn", "length37-dim3-state256", full(dim=3, length=37, d_state=256), CHANNELS_LAST, slow=True),
    Case("selective_scan_fn", "nothing-optional", scan(given=())),
    Case("selective_scan_fn", "only-D", scan(given=("D",))),
    Case("selective_scan_fn", "only-z", scan(given=("z",))),
    Case("selective_scan_fn", "bias-without-softplus", scan(length=9, given=("delta_bias",))),
    Case("selective_scan_fn", "softplus-without-bias", scan(given=(), delta_softplus=True)),
    Case("selective_scan_fn", "length-contiguous", scan(delta_softplus=True)),
    Case("selective_scan_fn", "last-state", scan(delta_softplus=True, last_axis=True, return_last_state=True), CHANNELS_LAST),
    Case("selective_scan_fn", "last-state-short", scan(length=1, given=(), return_last_state=True)),
    Case("selective_scan_fn", "constant-B", scan(constant="B", delta_softplus=True)),
    Case("selective_scan_fn", "constant-C", scan(constant="C", delta_softplus=True)),
    Case("selective_scan_fn", "constant-BC", scan(constant="BC", delta_softplus=True, return_last_state=True)),
    Case("selective_scan_fn", "one-group", scan(groups=1, delta_softplus=True)),
    Case("selective_scan_fn", "three-groups", scan(groups=3, delta_softplus=True)),
    Case("selective_scan_fn", "complex", scan(complex_A=True, d_state=4, delta_softplus=True, return_last_state=True)),
    Case("selective_scan_fn", "complex-groups", scan(complex_A=True, d_state=4, groups=2)),
    Case("selective_scan_fn", "complex-constant-B", scan(complex_A=True, d_state=4, constant="B", delta_softplus=True)),
    Case("selective_scan_fn", "complex-constant-BC", scan(complex_A=True, d_state=4, constant="BC")),
    Case("selective_scan_fn", "strided", scan(length=46, given=("z",)), dict.fromkeys(("u", "delta", "z", "B", "C"), layouts.every_second)),
    Case("selective_scan_fn", "parts-of-a-projection", scan(dim=21, last_axis=True, given=("z",)),
         {**CHANNELS_LAST, "u": lambda u: u[:, :, :18].mT, "z": lambda z: z[:, :, 3:].mT, "delta": lambda d: d[:, :, 1:19].mT,
          "A": lambda A: A[:18]}),
    Case("selective_scan_fn", "u-and-delta-differ-in-layout", scan(delta_softplus=True),
         {"u": lambda u: u.mT.contiguous().mT, "z": lambda z: z.mT.contiguous().mT}),
    Case("selective_scan_fn", "expanded-batch", scan(1, delta_softplus=True, given=()),
         {n: layouts.over_batch(3) for n in ("u", "delta", "B", "C")}, slack=4),
    Case("selective_scan_fn", "expanded-delta", scan(given=()), {"delta": lambda d: d[:, :1].expand(-1, 18, -1)}),
    Case("selective_scan_fn", "expanded-A", scan(given=()), {"A": lambda A: A[:, :1].expand(-1, 16)}),
    Case("selective_scan_fn", "one-sequence-wide", full(batch=1, dim=160, length=40), CHANNELS_LAST),
    Case("selective_scan_fn", "from-a-state", full(states=True, return_last_state=True), CHANNELS_LAST),
    Case("selective_scan_fn", "documents", full(tokens=11), CHANNELS_LAST),
    Case("selective_scan_fn", "one-token-from-a-state", full(length=1, states=True, return_last_state=True), CHANNELS_LAST),
    Case("selective_scan_fn", "documents-from-a-state-length-contiguous",
         scan(length=131, groups=3, tokens=50, states=True, delta_softplus=True, return_last_state=True)),
    Case("selective_scan_fn", "from-a-state-in-16-bits", scan(length=37, states=True, given=()),
         float32=("A", "D", "delta_bias")),
    Case("selective_scan_fn", "padding-among-documents",
         full(length=41, documents=(-1, -3, *[5] * 9, -1, *[5] * 3, *[2] * 17, -1, -1, 0, 1, *[4] * 4, -9), states=True), CHANNELS_LAST),
    Case("selective_scan_fn", "from-an-expanded-state", scan(length=9, given=(), states=True, return_last_state=True),
         {"initial_states": lambda h: h[:1, :, :1].expand(2, -1, 16)}),
    Case("selective_scan_fn", "long-documents-of-both-kinds", full(batch=1, dim=5, length=600, tokens=280, states=True), CHANNELS_LAST),
    Case("selective_scan_fn", "complex-from-a-state", scan(complex_A=True, d_state=4, states=True, return_last_state=True)),
    Case("selective_scan_fn", "complex-documents", scan(complex_A=True, d_state=4, tokens=11, delta_softplus=True)),
]  # fmt: skip


@parametrize(CASES)
def test_scan(case: Case, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, backend, dtype, monkeypatch)


@pytest.mark.parametrize("steep", [0.0, 30.0, 1000.0])
def test_steep_and_flat_decay(steep: float) -> None:
    """exp(delta A) that underflows to 0 or stays 1 is exact, not NaN, in the values and in the gradients."""
    u, delta = torch.randn(1, 4, 50), torch.rand(1, 4, 50)
    A = torch.full((4, 3), -steep).requires_grad_()
    B, C = torch.randn(1, 3, 50), torch.randn(1, 3, 50)
    out = ops.selective_scan_fn(u, delta, A, B, C)
    want = exact.selective_scan_fn(*(t.double() for t in (u, delta, A, B, C)))
    torch.testing.assert_close(out.double(), want, rtol=1e-5, atol=1e-4)
    (gradient,) = torch.autograd.grad(out.sum(), A)
    assert gradient.isfinite().all()


def test_reference_equals_the_sum_over_pairs_of_tokens() -> None:
    """y[t] = sum over s <= t of C[t] . exp(A (delta[s+1] + ... + delta[t])) delta[s] B[s] u[s]: no recurrence."""
    batch, dim, length, n = 2, 3, 9, 4
    u, delta = torch.randn(batch, dim, length).double(), torch.rand(batch, dim, length).double()
    A, B, C = -torch.rand(dim, n).double(), torch.randn(batch, n, length).double(), torch.randn(batch, n, length).double()
    want = torch.zeros(batch, dim, length).double()
    for t in range(length):
        for s in range(t + 1):
            decay = torch.exp(A * delta[:, :, s + 1 : t + 1].sum(2)[:, :, None])
            want[:, :, t] += (C[:, None, :, t] * decay * B[:, None, :, s]).sum(2) * delta[:, :, s] * u[:, :, s]
    torch.testing.assert_close(exact.selective_scan_fn(u, delta, A, B, C), want)


def test_complex_reference_equals_the_real_one_of_twice_the_states() -> None:
    """A pair of conjugate states is what one complex state stands for."""
    u, delta = torch.randn(1, 2, 8).double(), torch.rand(1, 2, 8).double()
    A = torch.complex(-torch.rand(2, 3).double(), torch.randn(2, 3).double())
    B, C = (torch.complex(torch.randn(2, 3).double(), torch.randn(2, 3).double()) for _ in "BC")
    got = exact.selective_scan_fn(u, delta, A, B, C)
    pairs = (torch.cat([M, M.conj()], dim=1) for M in (A, B, C))
    A2, B2, C2 = pairs
    state, want = torch.zeros(1, 2, 6, dtype=torch.complex128), []
    for t in range(8):
        state = torch.exp(delta[:, :, t, None] * A2) * state + (delta * u)[:, :, t, None] * B2
        want.append((state * C2).sum(2).real)
    torch.testing.assert_close(got, torch.stack(want, 2))


def test_reference_gradients() -> None:
    shapes = ((1, 2, 4), (1, 2, 4), (2, 3), (1, 3, 4), (1, 3, 4), (2,), (1, 2, 4), (2,))
    inputs = [torch.randn(*shape).double().requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(lambda *given: exact.selective_scan_fn(*given, delta_softplus=True), inputs)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.sampled_from([1, 5, 16]), st.integers(0, 2**20))
def test_steps_equal_the_scan(length: int, d_state: int, seed: int) -> None:
    torch.manual_seed(seed)
    dim = 5
    u, delta, z = (torch.randn(2, dim, length) for _ in range(3))
    A, B, C = -torch.rand(dim, d_state), torch.randn(2, d_state, length), torch.randn(2, d_state, length)
    D, bias = torch.randn(dim), torch.randn(dim)
    out, last = ops.selective_scan_fn(u, delta, A, B, C, D, z, bias, True, return_last_state=True)
    state = torch.zeros(2, dim, d_state)
    for t in range(length):
        step = ops.selective_state_update(
            state, u[:, :, t], delta[:, :, t], A, B[:, :, t], C[:, :, t], D, z[:, :, t], bias, True
        )
        torch.testing.assert_close(step, out[:, :, t], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 60), st.integers(1, 59), st.integers(0, 2**20))
def test_the_past_does_not_see_the_future(length: int, cut: int, seed: int) -> None:
    torch.manual_seed(seed)
    cut = min(cut, length - 1)
    u, delta = torch.randn(1, 3, length), torch.rand(1, 3, length)
    A, B, C = -torch.rand(3, 4), torch.randn(1, 4, length), torch.randn(1, 4, length)
    out = ops.selective_scan_fn(u, delta, A, B, C)
    changed = u.clone()
    changed[:, :, cut:] = 100.0
    again = ops.selective_scan_fn(changed, delta, A, B, C)
    assert torch.equal(out[:, :, :cut], again[:, :, :cut])


@pytest.mark.parametrize("shape", [(2, 5, 0), (0, 5, 7), (2, 0, 7)])
def test_nothing_to_do(shape: tuple[int, ...]) -> None:
    u = torch.randn(shape).requires_grad_()
    batch, dim, length = shape
    A, B = -torch.rand(dim, 3), torch.randn(batch, 3, length)
    out, last = ops.selective_scan_fn(u, u, A, B, B, return_last_state=True)
    assert out.shape == shape
    assert last.shape == (batch, dim, 3) and not last.any()
    out.sum().backward()
    assert u.grad is not None and u.grad.shape == shape


def test_the_last_state_passes_no_gradient() -> None:
    u = torch.randn(1, 3, 5).requires_grad_()
    _, last = ops.selective_scan_fn(u, u.detach().abs(), -torch.rand(3, 2), *torch.randn(2, 1, 2, 5), return_last_state=True)
    assert not last.requires_grad


def tensors(batch: int = 1, dim: int = 5, length: int = 60, n: int = 4) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    build_inputs = build(length, batch, dim, d_state=n)
    return build_inputs(lambda *shape: torch.randn(*shape, generator=generator))


def part(inputs: dict[str, Any], tokens: slice, **changed: Any) -> dict[str, Any]:
    whole = {"A", "D", "delta_bias", "delta_softplus"}
    return {name: value if name in whole else value[..., tokens] for name, value in inputs.items()} | changed


BACKENDS = pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])


@BACKENDS
def test_pieces_equal_the_whole(backend: str) -> None:
    inputs = tensors(batch=2)
    want, want_state = selective_scan(**inputs, return_last_state=True, backend=backend)
    state, outputs = None, []
    for tokens in (slice(0, 33), slice(33, 34), slice(34, 60)):
        out, state = selective_scan(**part(inputs, tokens), initial_states=state, return_last_state=True, backend=backend)
        outputs.append(out)
    torch.testing.assert_close(torch.cat(outputs, dim=2), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, want_state, rtol=1e-5, atol=1e-5)


@BACKENDS
@pytest.mark.parametrize("named_by", ["seq_idx", "cu_seqlens"])
def test_documents_equal_each_alone(backend: str, named_by: str) -> None:
    inputs, borders = tensors(), (0, 1, 2, 35, 60)
    ids = torch.tensor([[9, 7, *[8] * 33, *[7] * 25]])
    given: dict[str, Any] = {"seq_idx": ids} if named_by == "seq_idx" else {"cu_seqlens": torch.tensor([0, 1, 1, 2, 35, 60])}
    got, last = selective_scan(**inputs, **given, return_last_state=True, backend=backend)
    alone = [selective_scan(**part(inputs, slice(a, b)), return_last_state=True, backend=backend) for a, b in zip(borders, borders[1:])]
    torch.testing.assert_close(got, torch.cat([out for out, _ in alone], dim=2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last, alone[-1][1], rtol=1e-5, atol=1e-5)


@BACKENDS
@pytest.mark.parametrize("kind", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["u", "delta", "B", "initial_states"])
def test_nothing_of_a_document_reaches_the_next(backend: str, name: str, kind: float) -> None:
    inputs = tensors() | {"initial_states": torch.zeros(1, 5, 4)}
    inputs["A"] = -torch.ones(5, 4)
    ids = torch.tensor([[0] * 30 + [1] * 30])
    want = selective_scan(**inputs, seq_idx=ids, backend=backend)
    inputs[name] = inputs[name].clone()
    inputs[name][..., 0] = kind
    got = selective_scan(**inputs, seq_idx=ids, backend=backend)
    assert not got[..., :30].isfinite().all()
    assert torch.equal(got[..., 30:], want[..., 30:])


@BACKENDS
def test_padding_is_as_if_it_were_not_there(backend: str) -> None:
    inputs = tensors() | {"initial_states": torch.randn(1, 5, 4)}
    real = torch.ones(60, dtype=torch.bool)
    real[[0, 1, 20, 21, 40, 59]] = False
    ids = torch.where(real, torch.arange(60) // 30, -1)[None]
    inputs.update({name: inputs[name].masked_fill(~real, 7.0).requires_grad_() for name in ("u", "delta", "z", "B", "C")})
    got, last = selective_scan(**inputs, seq_idx=ids, return_last_state=True, backend=backend)
    short = {name: value[..., real] if name in ("u", "delta", "z", "B", "C") else value for name, value in inputs.items()}
    want, want_last = selective_scan(**short, seq_idx=ids[:, real], return_last_state=True, backend=backend)
    assert not got[..., ~real].any()
    torch.testing.assert_close(got[..., real], want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last, want_last, rtol=1e-5, atol=1e-5)
    leaves = [inputs[name] for name in ("u", "delta", "z", "B", "C")]
    for a, b in zip(torch.autograd.grad(got.square().sum(), leaves), torch.autograd.grad(want.square().sum(), leaves)):
        assert not a[..., ~real].any()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_the_state_may_be_overwritten_before_the_backward_pass(backend: str) -> None:
    """As a cache does with the state that it was read from."""
    inputs, states = tensors(), torch.randn(1, 5, 4)
    leaves = [inputs[name].requires_grad_() for name in ("u", "delta", "A", "B", "C")]
    want = torch.autograd.grad(selective_scan(**inputs, initial_states=states.clone(), backend=backend).sum(), leaves)
    out, last = selective_scan(**inputs, initial_states=states, return_last_state=True, backend=backend)
    states.copy_(last)
    for a, b in zip(torch.autograd.grad(out.sum(), leaves), want):
        assert torch.equal(a, b)


def test_reference_gradients_of_documents_from_a_state() -> None:
    shapes = ((1, 2, 4), (1, 2, 4), (2, 3), (1, 3, 4), (1, 3, 4), (2,), (1, 2, 4), (2,), (1, 2, 3))
    inputs = [torch.randn(*shape).double().requires_grad_() for shape in shapes]
    ids = torch.tensor([[0, 0, -1, 1]])

    def function(*given: Any) -> Any:
        return exact.selective_scan_fn(*given[:8], True, False, given[8], ids)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradcheck(lambda *given: exact.selective_scan_fn(*given[:8], True, False, given[8]), inputs)


def test_segments_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the torch backend takes a chunk's steps in segments, side by side."""
    from anymamba.backends.torch import selective_scan as module

    monkeypatch.setattr(module, "_segment_length", lambda device: 4)
    monkeypatch.setattr(module, "_chunk_length", lambda u, d_state: 19)
    inputs = tensors(batch=2) | {"initial_states": torch.randn(2, 5, 4)}
    ids = torch.tensor([[0] * 7 + [1] + [2] * 30 + [3] * 22, [0] * 19 + [1] * 41])
    names = ("u", "delta", "A", "B", "C", "z", "initial_states")
    results = []
    for function, dtype in ((exact.selective_scan_fn, torch.float64), (module.selective_scan_fn, torch.float32)):
        given = {n: v.to(dtype).requires_grad_(n in names) if isinstance(v, torch.Tensor) else v for n, v in inputs.items()}
        out, last = function(**given, seq_idx=ids, return_last_state=True)
        results.append([out, last, *torch.autograd.grad(out.square().sum(), [given[n] for n in names])])
    for want, got in zip(*results):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)


def test_upstreams_signature() -> None:
    """No more and no less than mamba_ssm's, and ``backend``."""
    names = "u delta A B C D z delta_bias delta_softplus return_last_state backend"
    assert list(inspect.signature(ops.selective_scan_fn).parameters) == names.split()

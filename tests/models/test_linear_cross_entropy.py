"""The chunked loss against torch's own on the whole logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from anymamba.errors import ArgumentError
from anymamba.models.trunk import loss as module
from anymamba.models.trunk.loss import linear_cross_entropy


def inputs(tokens: int = 37, vocabulary: int = 101, width: int = 12, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, width, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    targets[::5] = -100
    return hidden, weight, targets


@pytest.fixture(autouse=True, params=[1, 10, 10**6], ids=lambda rows: f"{rows} rows a block")
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_BYTES", 4 * 101 * request.param)
    monkeypatch.setattr(module, "_CACHE_BYTES", 4 * 101 * 3)


def test_value_and_gradients() -> None:
    hidden, weight, targets = inputs()
    expected = F.cross_entropy(hidden.double() @ weight.double().t(), targets)
    wanted = torch.autograd.grad(3 * expected, (hidden, weight))
    got = linear_cross_entropy(hidden, weight, targets)
    assert_close(got.double(), expected, rtol=1e-6, atol=1e-6)
    assert_close(torch.autograd.grad(3 * got, (hidden, weight)), wanted, rtol=1e-5, atol=1e-6)


def test_token_weights_and_normalizer() -> None:
    hidden, weight, targets = inputs()
    weights = torch.rand(targets.shape, generator=torch.Generator().manual_seed(0))
    each = F.cross_entropy(hidden @ weight.t(), targets, reduction="none")
    counted = weights * (targets != -100)
    for normalizer, divisor in ((None, counted.sum()), (7.0, 7.0), (torch.tensor(2.0), 2.0)):
        expected = (each * counted).sum() / divisor
        got = linear_cross_entropy(hidden, weight, targets, token_weights=weights, normalizer=normalizer)
        assert_close(got, expected)
        wanted = torch.autograd.grad(expected, (hidden, weight), retain_graph=True)
        assert_close(torch.autograd.grad(got, (hidden, weight)), wanted, rtol=1e-4, atol=1e-6)


def test_batches_of_rows_and_another_ignore_index() -> None:
    hidden, weight, targets = inputs(36)
    targets = targets.masked_fill(targets == -100, -1).view(4, 9)
    expected = F.cross_entropy(hidden @ weight.t(), targets.view(-1), ignore_index=-1)
    assert_close(linear_cross_entropy(hidden.view(4, 9, -1), weight, targets, ignore_index=-1), expected)


def test_all_ignored_and_empty() -> None:
    hidden, weight, targets = inputs()
    loss = linear_cross_entropy(hidden, weight, torch.full_like(targets, -100))
    loss.backward()
    assert loss == 0 and hidden.grad.abs().max() == 0 and weight.grad.abs().max() == 0
    assert linear_cross_entropy(hidden[:0], weight, targets[:0]) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good_as_torch(dtype: torch.dtype) -> None:
    """Error against float64 at most twice that of the plain computation in the same dtype."""
    hidden, weight, targets = inputs(dtype=dtype)
    exact = F.cross_entropy(hidden.double() @ weight.double().t(), targets)
    truth = torch.autograd.grad(exact, (hidden, weight))
    plain = F.cross_entropy((hidden @ weight.t()).float(), targets)
    plainly = torch.autograd.grad(plain, (hidden, weight))
    ours = linear_cross_entropy(hidden, weight, targets)
    assert abs(ours - exact) <= 2 * abs(plain - exact) + 1e-6
    for got, other, true in zip(torch.autograd.grad(ours, (hidden, weight)), plainly, truth):
        assert got.dtype == dtype
        assert (got.double() - true).norm() <= 2 * (other.double() - true).norm() + 1e-6 * true.norm()


def test_autocast_gives_float32_gradients_of_float32_parameters() -> None:
    hidden, weight, targets = inputs()
    expected = torch.autograd.grad(F.cross_entropy(hidden @ weight.t(), targets), (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets)
    for got, want in zip(torch.autograd.grad(loss, (hidden, weight)), expected):
        assert got.dtype == torch.float32
        assert (got - want).norm() < 0.02 * want.norm()


def test_without_gradients_nothing_is_kept() -> None:
    hidden, weight, targets = inputs()
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, targets)
    assert not loss.requires_grad
    frozen = linear_cross_entropy(hidden, weight.detach(), targets)
    frozen.backward()
    assert hidden.grad is not None and weight.grad is None


def test_large_logits_do_not_overflow() -> None:
    hidden, weight, targets = inputs()
    loss = linear_cross_entropy(1e4 * hidden, weight, targets)
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, weight)[0]).all()


def test_wrong_arguments_are_named() -> None:
    hidden, weight, targets = inputs()
    with pytest.raises(ArgumentError, match=r"\(36,\)"):
        linear_cross_entropy(hidden, weight, targets[1:])
    with pytest.raises(ArgumentError, match="target id 101 is outside the vocabulary of 101"):
        linear_cross_entropy(hidden, weight, targets.clamp(min=101))
    with pytest.raises(ArgumentError, match="token_weights"):
        linear_cross_entropy(hidden, weight, targets, token_weights=torch.ones(3))


def test_a_second_backward_pass_adds_the_same_gradients() -> None:
    hidden, weight, targets = inputs()
    loss = linear_cross_entropy(hidden, weight, targets)
    loss.backward(retain_graph=True)
    once = hidden.grad.clone(), weight.grad.clone()
    loss.backward()
    for leaf, gradient in zip((hidden, weight), once):
        torch.testing.assert_close(leaf.grad, 2 * gradient)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()

"""Products of linear layers: on a processor without 16-bit units as exact as torch's and as fast as float32."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.backends import matrix_units
from anymamba.backends.torch import widened_product as widened
from anymamba.ops import projection

DTYPES = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def _no_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor that multiplies only float32, with tiles and blocks so small that there are several."""
    monkeypatch.setattr(matrix_units, "cpu_unit", lambda dtype: "")
    monkeypatch.setattr(widened, "_TILE_BYTES", 4 * 40 * 7)
    monkeypatch.setattr(widened, "_BLOCK_ROWS", 4)
    monkeypatch.setattr(widened, "_ALIGNED", 4)


def operands(dtype: torch.dtype, batch: tuple[int, ...] = (2, 11), depth: int = 40, columns: int = 30) -> list[Tensor]:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(*batch, depth), torch.randn(columns, depth) / depth**0.5, torch.randn(columns)
    return [t.to(dtype).requires_grad_() for t in (x, weight, bias)]


def with_gradients(function: Callable[..., Tensor], arguments: list[Tensor], dy: Tensor) -> list[Tensor]:
    y = function(*arguments)
    return [y.detach(), *torch.autograd.grad(y, arguments, dy.to(y.dtype))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [(2, 11), (1,), ()], ids=str)
def test_values_and_gradients_are_as_exact_as_torchs(dtype: torch.dtype, batch: tuple[int, ...]) -> None:
    arguments = operands(dtype, batch)
    dy = torch.randn(*batch, 30).to(dtype)
    exact = with_gradients(F.linear, [t.detach().double().requires_grad_() for t in arguments], dy)
    plain = with_gradients(F.linear, arguments, dy)
    ours = with_gradients(projection.linear, arguments, dy)
    for result, peer, true in zip(ours, plain, exact):
        assert result.dtype == dtype and result.shape == true.shape
        assert (result - true).norm() <= 1.1 * (peer - true).norm() + 1e-12


def test_operands_in_any_layout() -> None:
    x, weight = torch.randn(40, 9).bfloat16().t(), torch.randn(40, 30).bfloat16().t()
    dy = torch.randn(30, 9).bfloat16().t()
    dense = [t.detach().contiguous().requires_grad_() for t in (x, weight)]
    strided = [t.detach().requires_grad_() for t in (x, weight)]
    for ours, peer in zip(with_gradients(projection.linear, strided, dy), with_gradients(projection.linear, dense, dy.contiguous())):
        torch.testing.assert_close(ours, peer)


def test_under_autocast_the_weights_keep_their_digits() -> None:
    x, weight, bias = operands(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = projection.linear(x, weight, bias)
        peer = F.linear(x, weight, bias)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32
    true = F.linear(x.double(), weight.double(), bias.double())
    assert (y - true).norm() <= (peer - true).norm()


@pytest.mark.parametrize("dtype", (torch.float32, *DTYPES), ids=str)
def test_int8(dtype: torch.dtype) -> None:
    x, _, bias = operands(dtype)
    weight, scale = torch.randint(-127, 128, (30, 40), dtype=torch.int8), torch.rand(30) / 100
    y = projection.linear_int8(x, weight, scale, bias.detach().float())
    wide = x.detach().double().requires_grad_()
    true = F.linear(wide, weight.double() * scale[:, None].double(), bias.detach().float().double())
    torch.testing.assert_close(y.double(), true, rtol=4 * torch.finfo(dtype).eps, atol=1e-5)
    dy = torch.randn_like(y)
    (ours,), (theirs,) = torch.autograd.grad(y, x, dy), torch.autograd.grad(true, wide, dy.double())
    torch.testing.assert_close(ours.double(), theirs, rtol=4 * torch.finfo(dtype).eps, atol=1e-5)


def test_second_derivative() -> None:
    x, weight, _ = operands(torch.bfloat16)
    y = projection.linear(x, weight).float().square().sum()
    (dx,) = torch.autograd.grad(y, x, create_graph=True)
    (second,) = torch.autograd.grad(dx.float().sum(), weight)
    wide = [t.detach().double().requires_grad_() for t in (x, weight)]
    (dx,) = torch.autograd.grad(F.linear(*wide).square().sum(), wide[0], create_graph=True)
    (true,) = torch.autograd.grad(dx.sum(), wide[1])
    assert (second - true).norm() < 0.02 * true.norm()


def test_functional_transforms_and_graphs() -> None:
    x, weight, bias = (t.detach() for t in operands(torch.bfloat16))
    grad = torch.func.grad(lambda w: projection.linear(x, w, bias).float().square().sum())(weight)
    assert grad.shape == weight.shape and bool(grad.isfinite().all())
    mapped = torch.func.vmap(lambda row: projection.linear(row, weight, bias))(x)
    torch.testing.assert_close(mapped, projection.linear(x, weight, bias), rtol=2e-2, atol=2e-2)

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return projection.linear(x, weight, bias)

    exported = torch.export.export(Layer(), (x,)).module()
    torch.testing.assert_close(exported(x), projection.linear(x, weight, bias), rtol=2e-2, atol=2e-2)


def test_no_widened_copy_of_a_large_weight() -> None:
    weight = torch.zeros(4000, 256, dtype=torch.bfloat16)
    rows = max(end.stop - end.start for end in widened._tiles(4000, weight))
    assert rows <= 4, rows


def test_sixteen_bits_take_the_time_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    x, weight = torch.randn(256, 512), torch.randn(1024, 512)

    def seconds(*arguments: Tensor) -> float:
        return min(_timed(lambda: projection.linear(*arguments)) for _ in range(7))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the time of a second one would count its waiting
    try:
        whole = seconds(x, weight)
        for dtype in DTYPES:
            assert seconds(x.to(dtype), weight.to(dtype)) < 2 * whole, "emulated products take five times as long"
    finally:
        torch.set_num_threads(threads)


def _timed(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started

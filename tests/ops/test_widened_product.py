"""widened_product on every backend: layouts, dtypes of weights, sizes around those of tiles and panels, numbers of threads."""

from __future__ import annotations

import pytest
import torch
from tests.ops.harness import Case, check, parametrize
from torch import Tensor

from anymamba import ops
from anymamba.backends.cpu import widened_product_kernels
from anymamba.backends.cpu.jit import target
from anymamba.errors import ArgumentError, ArgumentTypeError
from anymamba.ops.widened_product import build, product_times
from anymamba.reference import blocks

CASES = [
    Case("widened_product", name, build, views, forward_only=True)
    for name, build, views in [
        ("odd-sizes", build(), {}),
        ("a-tile", build(12, 32, 16), {}),
        ("one-more-than-tiles", build(25, 65, 17), {}),
        ("int8", build(7, 50, 33, int8=True), {}),
        ("transposed", build(9, 35, 20, transposed=True), {}),
        ("transposed-int8", build(9, 35, 20, int8=True, transposed=True), {}),
        ("deep", build(5, 9, 5000), {}),
        ("one-of-each", build(1, 1, 1), {}),
        ("part-of-a-row", build(6, 20, 48), {"a": lambda x: x[:, 3:40], "weight": lambda x: x[:, 5:42]}),
        ("columns-of-a", build(16, 20, 8), {"a": lambda x: x.t().contiguous().t()}),
        ("every-second", build(6, 20, 48), {"a": lambda x: x[:, ::2], "weight": lambda x: x[:, ::2]}),
        ("no-bias", build(6, 20, 48), {"bias": lambda x: None}),
        ("no-scale", build(6, 20, 48), {"scale": lambda x: None}),
        ("q8_0", build(9, 37, 96, packed="q8_0"), {}),
        ("q8_0-one-row", build(1, 37, 96, packed="q8_0"), {}),
        ("q4_0", build(7, 50, 160, packed="q4_0"), {}),
        ("q4_1", build(13, 33, 64, packed="q4_1"), {}),
    ]
]  # fmt: skip


@parametrize(CASES)
def test_values(case: Case, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, backend, dtype, monkeypatch)


def operands(rows: int, columns: int, depth: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(rows, depth).to(dtype), torch.randn(columns, depth).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_many_rows_by_several_threads(dtype: torch.dtype) -> None:
    """Blocks of rows and of columns, each divided among three workers, give the bits of one."""
    a, weight = operands(300, 100, 130, dtype)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(ops.widened_product(a, weight, dtype=torch.float32, backend="cpu"))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(results[0], a.float() @ weight.float().t(), rtol=1e-4, atol=1e-4)
    assert torch.equal(*results)


def test_a_row_does_not_depend_on_the_others() -> None:
    a, weight = operands(40, 50, 70, torch.bfloat16)
    whole = ops.widened_product(a, weight, backend="cpu")
    tall = widened_product_kernels.tile_rows(target.host())
    for count in (1, tall - 1, tall + 1):
        assert torch.equal(ops.widened_product(a[:count], weight, backend="cpu"), whole[:count])


@pytest.mark.parametrize("name", ["q4_0", "q4_1"])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_few_rows_with_four_bit_weights_are_rounded_to_sixteen(rows: int, name: str) -> None:
    """Their rounding is relative to the largest of 32 neighbours, so one large number costs only these their digits."""
    a, weight = operands(rows, 70, 192, torch.float32)
    a[:, 5] = 1e4
    packed = blocks.packed(weight, name)
    a[:, :32] = 0.0
    a[0, 40] = 3e4
    whole = a.double() @ blocks.unpacked(packed, 192, torch.float64).t()
    y = ops.widened_product(a, packed, backend="cpu")
    assert ((y - whole).abs() <= 1e-4 * whole.abs().amax(dim=1, keepdim=True)).all()
    if rows > 1:
        assert torch.equal(ops.widened_product(a[1:2], packed, backend="cpu"), y[1:2])


def test_blocks_of_another_depth() -> None:
    with pytest.raises(ArgumentError, match="weight"):
        ops.widened_product(torch.zeros(2, 64), torch.zeros(5, 35, dtype=torch.uint8))
    with pytest.raises(ArgumentError, match="multiple of 32"):
        ops.widened_product(torch.zeros(2, 40), torch.zeros(5, 34, dtype=torch.uint8))


def test_what_is_not_finite_stays_in_its_row_and_column() -> None:
    a, weight = operands(14, 40, 30, torch.bfloat16)
    a[3, 4], weight[17, 2] = torch.nan, torch.inf
    y = ops.widened_product(a, weight, backend="cpu")
    finite = y.isfinite()
    assert not finite[3].any() and not finite[:, 17].any()
    finite[3], finite[:, 17] = True, True
    assert bool(finite.all())


def test_empty() -> None:
    assert ops.widened_product(torch.empty(0, 5).bfloat16(), torch.empty(3, 5).bfloat16()).shape == (0, 3)
    assert ops.widened_product(torch.empty(2, 5).bfloat16(), torch.empty(0, 5).bfloat16()).shape == (2, 0)
    assert not ops.widened_product(torch.empty(2, 0).bfloat16(), torch.empty(3, 0).bfloat16()).any()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"a": torch.zeros(2, 3, 4)}, ArgumentError),
        ({"weight": torch.zeros(5, 6)}, ArgumentError),
        ({"bias": torch.zeros(4)}, ArgumentError),
        ({"weight": torch.zeros(5, 4, dtype=torch.int32)}, ArgumentTypeError),
        ({"weight": torch.zeros(5, 4, device="meta")}, ArgumentTypeError),
        ({"a": torch.zeros(2, 4, dtype=torch.int8)}, ArgumentTypeError),
    ],
)
def test_bad_arguments(change: dict[str, Tensor], error: type[Exception]) -> None:
    arguments = {"a": torch.zeros(2, 4), "weight": torch.zeros(5, 4), **change}
    with pytest.raises(error) as raised:
        ops.widened_product(**arguments)
    assert next(iter(change)) in str(raised.value)


def test_its_time_is_counted_once() -> None:
    a, weight = operands(8, 8, 8, torch.bfloat16)
    with product_times() as seconds:
        ops.widened_product(a, weight)
        ops.widened_product(a, weight, backend="torch")
    ops.widened_product(a, weight)
    assert len(seconds) == 2 and all(second > 0 for second in seconds)

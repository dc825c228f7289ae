"""layer_norm_fn, rms_norm_fn and the gated norms on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.ops import layouts
from tests.ops.harness import Case, backends, check, parametrize, skip_unless_here
from torch import Tensor

from anymamba import ops
from anymamba.backends.opspec import Build
from anymamba.errors import BackendError
from anymamba.ops import norm as norm_op
from anymamba.ops import norm_gated as gated_op
from anymamba.reference import norm, norm_gated


def block_norm(shape: tuple[int, ...] = (2, 9, 20), given: tuple[str, ...] = (), prenorm: bool = False, **options: Any) -> Build:
    return norm_op.build(shape, given=given, prenorm=prenorm, **options)


VARIANTS: list[tuple[str, Build, dict[str, Callable[[Tensor], Tensor]]]] = [
    *((f"dim{dim}", block_norm((3, 5, dim)), {}) for dim in (7, 64, 1000)),
    ("dim1", block_norm((3, 5, 1), eps=0.1), {}),  # a small eps would leave a gradient of 0 and nothing but rounding
    ("rows", block_norm((7, 33)), {}),
    ("one-row", block_norm((33,)), {}),
    ("four-axes", block_norm((2, 3, 4, 5)), {}),
    ("bias", block_norm(bias=True), {}),
    ("eps", block_norm(eps=0.5), {}),
    ("residual", block_norm(given=("residual",)), {}),
    ("prenorm", block_norm(prenorm=True), {}),
    ("prenorm-residual", block_norm(given=("residual",), bias=True, prenorm=True), {}),
    ("residual-in-fp32", block_norm(prenorm=True, residual_in_fp32=True), {}),
    ("second-branch", block_norm(given=("x1", "residual"), prenorm=True), {}),
    ("second-norm", block_norm(given=("x1", "weight1", "bias1"), bias=True), {}),
    ("second-norm-alone", block_norm(given=("weight1",), prenorm=True), {}),
    ("rowscale", block_norm(given=("rowscale", "residual"), prenorm=True), {}),
    ("everything", block_norm(given=("x1", "weight1", "bias1", "rowscale", "residual"), bias=True, prenorm=True), {}),
    ("strided", block_norm((2, 9, 40)), {"x": layouts.every_second, "weight": layouts.every_second}),
    ("transposed", block_norm((2, 20, 20), given=("residual",)), {"x": layouts.channels_last}),
    ("expanded", block_norm((1, 9, 20), given=("residual",)), {"x": layouts.over_batch(3), "residual": layouts.over_batch(3)}),
]
CASES = [Case(op, name, build, views, slack=4) for op in ("layer_norm_fn", "rms_norm_fn") for name, build, views in VARIANTS if
         (op, name) != ("layer_norm_fn", "dim1")] + [
    Case(op, "prenorm-residual-fp32", block_norm(given=("residual",), prenorm=True), slack=4, float32=("residual",))
    for op in ("layer_norm_fn", "rms_norm_fn")
]  # fmt: skip
"""Without layer_norm over one channel: its output is 0 whatever the input, and the error has no scale."""


@parametrize(CASES)
def test_block_norm(case: Case, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, backend, dtype, monkeypatch)


def gated_norm(shape: tuple[int, ...] = (2, 9, 24), norm_before_gate: bool = True, **options: Any) -> Build:
    return gated_op.build(shape, norm_before_gate=norm_before_gate, **options)


GATED: list[tuple[str, Build, dict[str, Callable[[Tensor], Tensor]]]] = [
    *((f"dim{dim}", gated_norm((3, 5, dim), norm_before_gate=False), {}) for dim in (7, 64, 1000)),
    ("dim2", gated_norm((3, 5, 2), norm_before_gate=False, eps=0.1), {}),
    ("gate-after", gated_norm(), {}),
    ("gate-before", gated_norm(norm_before_gate=False), {}),
    ("no-gate", gated_norm(gate=False), {}),
    ("bias", gated_norm(bias=True), {}),
    ("groups-after", gated_norm(group_size=8), {}),
    ("groups-before", gated_norm(group_size=6, norm_before_gate=False, bias=True), {}),
    ("one-group", gated_norm(group_size=24), {}),
    ("no-gate-groups", gated_norm(gate=False, group_size=4), {}),
    ("rows", gated_norm((7, 32), eps=1e-2), {}),
    ("view-into-a-projection", gated_norm((2, 9, 31), norm_before_gate=False),
     {"x": lambda x: x[..., 1:25], "z": lambda z: z[..., 7:], "weight": lambda w: w[:24]}),
    ("strided", gated_norm((2, 9, 48)), {"x": layouts.every_second, "z": layouts.every_second, "weight": layouts.every_second}),
]  # fmt: skip


GATED_CASES = [Case(op, name, build, views) for op in ("layernorm_fn", "rmsnorm_fn") for name, build, views in GATED if
               (op, name) != ("layernorm_fn", "dim2")]  # fmt: skip
"""Without layernorm over two channels: its output is +-1 whatever the input, and what the gradient keeps after cancellation is rounding."""


@parametrize(GATED_CASES)
def test_gated_norm(case: Case, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, backend, dtype, monkeypatch)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("second", [False, True])
def test_dropout(backend: str, second: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the masks that it returns, the op is the sum that it says it is; the masks keep as many as they should."""
    skip_unless_here(backend)
    p, shape = 0.3, (40, 100)
    x, x1, residual, weight = (torch.randn(*s, requires_grad=True) for s in (shape, shape, shape, shape[1:]))
    try:
        y, total, mask, mask1 = ops.rms_norm_fn(
            x, weight, None, residual, x1 if second else None, dropout_p=p, prenorm=True, return_dropout_mask=True, backend=backend
        )
    except BackendError as error:
        pytest.skip(str(error.why))
    want = residual + torch.where(mask, x / (1 - p), 0) + (torch.where(mask1, x1 / (1 - p), 0) if second else 0)
    torch.testing.assert_close(total, want)
    torch.testing.assert_close(y, norm.rms_norm_fn(want, weight, None))
    assert mask.dtype == torch.bool and abs(mask.float().mean().item() - (1 - p)) < 0.03
    assert (mask1 is None) if not second else bool((mask1 != mask).any())
    (gradient,) = torch.autograd.grad(total.sum() + y.sum(), x)
    assert not gradient[~mask].any() and gradient[mask].any()




def test_masks_are_none_without_dropout() -> None:
    y, mask, mask1 = ops.rms_norm_fn(torch.randn(3, 4), torch.ones(4), None, return_dropout_mask=True)
    assert y.shape == (3, 4) and mask is None and mask1 is None


def test_the_residual_keeps_its_dtype() -> None:
    x = torch.randn(3, 4, dtype=torch.bfloat16)
    weight = torch.ones(4)
    y, total = ops.rms_norm_fn(x, weight, None, prenorm=True, residual_in_fp32=True)
    assert (y.dtype, total.dtype) == (torch.bfloat16, torch.float32)
    y, total = ops.rms_norm_fn(x, weight, None, residual=x, prenorm=True, residual_in_fp32=True)
    assert (y.dtype, total.dtype) == (torch.bfloat16, torch.bfloat16)
    y, total = ops.rms_norm_fn(x, weight, None, residual=x.float(), prenorm=True)
    assert (y.dtype, total.dtype) == (torch.bfloat16, torch.float32)


def test_references_equal_those_of_torch() -> None:
    x, z = torch.randn(3, 7, 24).double(), torch.randn(3, 7, 24).double()
    weight, bias = torch.randn(24).double(), torch.randn(24).double()
    torch.testing.assert_close(norm.layer_norm_fn(x, weight, bias, eps=1e-3), F.layer_norm(x, (24,), weight, bias, 1e-3))
    torch.testing.assert_close(norm.rms_norm_fn(x, weight, None, eps=1e-3), F.rms_norm(x, (24,), weight, 1e-3))
    groups = F.group_norm(x.reshape(-1, 24), 4, weight, bias, 1e-3).view_as(x)
    got = norm_gated.layernorm_fn(x, weight, bias, z, 1e-3, group_size=6)
    torch.testing.assert_close(got, groups * F.silu(z))
    got = norm_gated.rmsnorm_fn(x, weight, None, z, 1e-3, norm_before_gate=False)
    torch.testing.assert_close(got, F.rms_norm(x * F.silu(z), (24,), weight, 1e-3))


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5)])
def test_nothing_to_do(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape).requires_grad_()
    for out in (ops.rms_norm_fn(x, torch.ones(5), None), ops.rmsnorm_fn(x, torch.ones(5), None, x, group_size=5)):
        assert out.shape == shape
        out.sum().backward()

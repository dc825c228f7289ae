"""Calls of a signature that was seen before skip checks and choice; all else does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from anymamba import ops
from anymamba.backends import dispatch
from anymamba.errors import ArgumentError


@pytest.fixture(autouse=True)
def clean() -> Any:
    dispatch.forget()
    yield
    dispatch.forget()


def scan(length: int = 8, **changes: Any) -> dict[str, Any]:
    rows = {name: torch.randn(1, 4, length) for name in ("u", "delta")}
    matrices = {name: torch.randn(1, 2, length) for name in ("B", "C")}
    return {**rows, "A": -torch.rand(4, 2), **matrices, **changes}


def test_second_call_gives_the_same_and_is_remembered() -> None:
    given = scan()
    first = ops.selective_scan_fn(**given)
    assert len(dispatch._ready) == 1
    assert torch.equal(first, ops.selective_scan_fn(**given))  # type: ignore[arg-type]
    assert len(dispatch._ready) == 1


def test_another_shape_or_gradient_or_backend_is_another_signature() -> None:
    ops.selective_scan_fn(**scan())
    with pytest.raises(ArgumentError):
        ops.selective_scan_fn(**scan(delta=torch.randn(1, 4, 9)))
    leaf = torch.randn(1, 4, 8, requires_grad=True)
    assert ops.selective_scan_fn(**scan(u=leaf)).requires_grad  # type: ignore[union-attr]
    with torch.no_grad():
        assert not ops.selective_scan_fn(**scan(u=leaf)).requires_grad  # type: ignore[union-attr]
    ops.selective_scan_fn(**scan(), backend="torch")
    assert len(dispatch._ready) == 4


def test_an_option_that_is_no_key_is_named_by_the_checks() -> None:
    x, weight = torch.randn(1, 4, 8), torch.randn(4, 3)
    ops.causal_conv1d_fn(x, weight, activation="silu")
    with pytest.raises(Exception, match="activation"):
        ops.causal_conv1d_fn(x, weight, activation=["silu"])  # type: ignore[arg-type]


def test_forget_makes_the_next_call_choose_again() -> None:
    ops.selective_scan_fn(**scan())
    dispatch.forget()
    assert not dispatch._ready

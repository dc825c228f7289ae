"""Calls of a signature that was seen before skip checks and choice; all else does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from anymamba import ops
from anymamba.backends import dispatch, signature
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


def test_tensors_like_those_of_a_remembered_call_are_found_without_their_key(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [scan() for _ in range(3)]
    for one in given[:2]:  # chosen, and remembered by its tensors
        ops.selective_scan_fn(**one)
    monkeypatch.setattr(signature, "of", lambda tensors: pytest.fail("a key was built"))
    assert torch.equal(ops.selective_scan_fn(**given[0]), ops.selective_scan_fn(**given[0]))  # type: ignore[arg-type]
    leaf = torch.randn(1, 4, 8, requires_grad=True)
    for changes in ({"delta": torch.randn(1, 4, 8).mT.contiguous().mT}, {"D": torch.randn(4)}, {"u": leaf}):
        with pytest.raises(pytest.fail.Exception):
            ops.selective_scan_fn(**{**given[2], **changes})
    with pytest.raises(pytest.fail.Exception), dispatch.use_backend("torch"):
        ops.selective_scan_fn(**given[2])
    with pytest.raises(pytest.fail.Exception):
        ops.selective_scan_fn(**given[2], delta_softplus=True)


def test_an_optional_tensor_is_not_taken_for_another_of_the_same_kind() -> None:
    given = scan()
    of_D, of_bias = ({name: torch.ones(4)} for name in ("D", "delta_bias"))
    results = [ops.selective_scan_fn(**given, **(of_D if i % 2 else of_bias)) for i in range(6)]
    assert torch.equal(results[0], results[4]) and torch.equal(results[1], results[5])  # type: ignore[arg-type]
    assert not torch.equal(results[4], results[5])  # type: ignore[arg-type]

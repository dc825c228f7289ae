"""The shortest way of a call through an op: what was checked and chosen for one call holds for every other of the same signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from anymamba.backends import signature
from anymamba.backends.call import Call
from anymamba.backends.dispatch import Choice, ready, remember, requested_backend
from anymamba.ops.calls.debug import values_checked


def remembered(op: str, tensors: tuple[Any, ...], options: Any, backend: str | None) -> tuple[Any, Callable[..., Any] | None]:
    """(key of the signature or None, what serves it if a call of it went before). options: all else that the answer depends on."""
    if torch.compiler.is_compiling() or values_checked():
        return None, None
    signatures = signature.of(tensors)
    if signatures is None:
        return None, None
    key = op, signatures, options, requested_backend(backend)
    try:
        return key, ready(key)
    except TypeError:  # an option that is no key is a mistake, which the op's checks name
        return None, None


def keep(key: Any, call: Call, choice: Choice, arguments: tuple[Any, ...]) -> None:
    """Remembers the choice for calls of this key; with what its function prepares for them, if it can (its attribute ``prepare``)."""
    if key is not None:
        prepare = getattr(choice.function, "prepare", None)
        remember(key, call, choice, (prepare and prepare(*arguments, call.grad)) or choice.function)

"""The shortest way of a call through an op: what was checked and chosen for one call holds for every other of the same signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from anymamba.backends import signature, transforms
from anymamba.backends.call import Call
from anymamba.backends.choice import Choice
from anymamba.backends.dispatch import ready, recent, remember, remember_recent, requested_backend
from anymamba.ops.calls.debug import values_checked

Key = tuple[Any, ...]


def remembered(op: str, tensors: tuple[Any, ...], options: Any, backend: str | None) -> tuple[Key | None, Callable[..., Any] | None]:
    """(key of the signature or None, what serves it if a call of it went before). options: all else that the answer depends on."""
    if torch.compiler.is_compiling() or values_checked() or transforms.transformed():
        return None, None
    rest = options, requested_backend(backend), torch.is_grad_enabled()
    function = recent(op, tensors, rest)
    if function is not None:
        return None, function
    known = signature.of(tensors)
    if known is None:
        return None, None
    key = op, known, rest
    try:
        function = ready(key)
    except TypeError:  # an option that is no key is a mistake, which the op's checks name
        return None, None
    if function is not None:
        remember_recent(key, op, tensors, rest)
    return key, function


def keep(key: Key | None, call: Call, choice: Choice, arguments: tuple[Any, ...]) -> None:
    """Remembers the choice for calls of this key; with what its function prepares for them, if it can (its attribute ``prepare``)."""
    if key is not None:
        prepare = getattr(choice.function, "prepare", None)
        remember(key, call, choice, (prepare and prepare(*arguments, call.grad)) or choice.function)

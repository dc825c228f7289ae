"""Who is told of every call of an op: counts of the drop-in, records of a measurement, questions about a call that is not made."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from anymamba.backends.call import Call, op_of
from anymamba.backends.choice import Choice

Observer = Callable[[Call, Choice], None]
active: list[Observer] = []


def observe(function: Observer) -> None:
    """From now on function(call, choice) is called for every call of an op, in every thread. Once a function."""
    if function not in active:
        active.append(function)


def ignore(function: Observer) -> None:
    """Ends what ``observe`` began; nothing happens where it had not begun."""
    if function in active:
        active.remove(function)


@contextlib.contextmanager
def observing(function: Observer) -> Iterator[None]:
    """``observe`` for a block."""
    observe(function)
    try:
        yield
    finally:
        ignore(function)


class _Asked(BaseException):
    """Ends an op before anything is computed. No Exception, so that no op takes it for a failure of its own."""

    def __init__(self, call: Call) -> None:
        self.call = call


def call_of(function: Callable[..., Any], arguments: dict[str, Any]) -> Call:
    """What a backend is told when this public op is called with these arguments. Nothing is computed: tensors may be on "meta"."""
    thread, op = threading.get_ident(), op_of(function)

    def stop(call: Call, _: object) -> None:
        if threading.get_ident() == thread and call.op == op:
            raise _Asked(call)

    with observing(stop):
        try:
            function(**arguments, backend="reference")
        except _Asked as asked:
            return asked.call
    raise ValueError(f"{op} of empty tensors asks no backend")

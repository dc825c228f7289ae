"""The same numbers on every run: what --deterministic switches on in torch, and what it says where an operation cannot do it.

Our own kernels need no switch: none of them adds with atomics or chooses its plan by the clock.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

import torch

from anymamba.errors import AnymambaError
from anymamba.language import _

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def switch_on() -> None:
    """Deterministic algorithms in all of torch; an operation that has none raises. cuBLAS reads its variable when it starts."""
    os.environ.setdefault(_CUBLAS, ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Inside, with on: deterministic or an AnymambaError that names the operation. Puts torch's switches back at the end."""
    if not on:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    switch_on()
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error) and _CUBLAS not in str(error):
            raise
        raise AnymambaError(
            "deterministic",
            _("{operation} has no deterministic form here").format(operation=_operation(error)),
            why=str(error).splitlines()[0],
            fix=_("choose another --backend or --device, or leave --deterministic out"),
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def _operation(error: RuntimeError) -> str:
    """The name that torch's message begins with."""
    found = re.match(r"[`'\"]?([\w.:]+)", str(error))
    return found.group(1) if found else type(error).__name__

"""Value checks of the ops, off unless asked for: they read every tensor, and on an accelerator they wait for it."""

from __future__ import annotations

import os
from types import TracebackType

VARIABLE = "ANYMAMBA_DEBUG_CHECKS"

_from_environment = os.environ.get(VARIABLE, "") not in ("", "0")
_on = [_from_environment]


class debug_checks:
    """From now on, or in a ``with`` block, every op refuses NaN and infinity in its inputs and names the argument and the place:
    ``anymamba.debug_checks()``; False switches the checks off. ANYMAMBA_DEBUG_CHECKS=1 switches them on for a process.

    For finding where values overflow: each tensor is read once more, and an accelerator is waited for. Without it non-finite values
    go through the ops as they go through torch's, so that loops which skip an overflowing batch see it in the loss. The
    choice holds for the whole process, other threads included. The ops then raise ArgumentError.
    """

    def __init__(self, on: bool = True) -> None:
        self._previous, _on[0] = _on[0], on

    def __enter__(self) -> debug_checks:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        _on[0] = self._previous


def values_checked() -> bool:
    """Are the value checks on."""
    return _on[0]

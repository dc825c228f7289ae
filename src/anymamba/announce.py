"""What takes long is said while it happens, once, to whoever listens: compiling kernels before the first token, say.

The library says nothing by itself; a verb of the command line listens and writes to stderr. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable

_listener: Callable[[str], None] | None = None
_said: set[str] = set()


def listen(listener: Callable[[str], None] | None) -> None:
    """From now on texts go to this function; None: to nobody. What was said before may be said again."""
    global _listener
    _listener = listener
    _said.clear()


def heard() -> bool:
    """Whether somebody listens."""
    return _listener is not None


def once(text: str) -> None:
    """Tells the listener, once a process and text."""
    if _listener is not None and text not in _said:
        _said.add(text)
        _listener(text)

"""What the dispatcher answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """backend: its name. function: what to call. why: one sentence. rejected: (backend, reason) of those tried before it."""

    backend: str
    function: Callable[..., Any]
    why: str
    rejected: tuple[tuple[str, str], ...] = ()

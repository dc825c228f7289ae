"""What a backend raises where a kernel of it cannot be made."""

from __future__ import annotations


class NotCompiled(RuntimeError):
    """A kernel that a compiler or a driver would not take; its text has their words. Raised before anything is computed, so that the
    dispatcher can reject the variant and leave the call to the next backend."""

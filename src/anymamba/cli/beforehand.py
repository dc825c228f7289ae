"""What the first kernel of Triton waits for, done while the weights are loaded: its import, and the hash of its own library, hundreds of
megabytes, which names its cache. Most of that half second is spent outside of Python's lock."""

from __future__ import annotations

import importlib
import importlib.util
import threading


def prepare_triton() -> threading.Thread:
    """Begins with it and returns at once."""
    thread = threading.Thread(target=_prepare, name="anymamba-triton", daemon=True)
    thread.start()
    return thread


def _prepare() -> None:
    if importlib.util.find_spec("triton") is None:
        return
    try:
        cache = importlib.import_module("triton.runtime.cache")
        key = getattr(cache, "triton_key", None)  # where it was before Triton 3.5, its first kernel computes it
        if key is not None:
            key()
    except Exception:  # noqa: BLE001 - whoever needs Triton meets the same failure, and says it
        return

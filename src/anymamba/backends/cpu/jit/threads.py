"""Runs a kernel's task loop on several cores at once.

The compiled ``run`` takes tasks from a counter in its argument array until none is left, so every worker just calls it. Workers come
from the OpenMP runtime that torch has already loaded (GNU's libgomp, through its entry point GOMP_parallel): its threads spin
for a while after each of torch's parallel regions, and a second pool would compete with them for the cores. Measured with two
workers on two cores of Zen 4, medians: an empty kernel takes 5 us this way and 40 us with a pool of Python threads, one of 190 us
that follows a matrix product 260 us and 900 us. Where there is no
such runtime (Windows, macOS) and in a forked child, whose copy of the parent's OpenMP pool has no threads behind it, a pool of
Python threads serves: ctypes releases the interpreter lock during the call.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_function = functools.cache(ctypes.CFUNCTYPE(None, ctypes.c_void_p))
"""The compiled function at an address."""

_forked = False
_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def parallel_for(entry: int, data: int, workers: int) -> None:
    """Calls the compiled function at address ``entry`` with ``data`` from ``workers`` threads, this one among them, and waits."""
    if workers == 1:
        _function(entry)(data)
        return
    parallel = None if _forked else _gomp_parallel()
    if parallel is not None:
        parallel(entry, data, workers, 0)
    else:
        _run_in_pool(_function(entry), data, workers)


def kind() -> str:
    """Which of the two serves here, for reports."""
    return "python threads" if _forked or _gomp_parallel() is None else "libgomp"


@functools.cache
def _gomp_parallel() -> Callable[..., Any] | None:
    """GOMP_parallel of the libgomp in this process, torch's own copy if there are several; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        loaded = {line.split(maxsplit=5)[-1].strip() for line in maps if "libgomp" in line}
    for path in sorted(loaded, key=lambda path: "torch" not in path):
        try:
            function = ctypes.CDLL(path).GOMP_parallel
        except (OSError, AttributeError):
            continue
        function.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
        function.restype = None
        return function
    return None


def _run_in_pool(function: Any, data: int, workers: int) -> None:
    """This thread works too, so a pool that is busy with other callers' kernels delays nobody: the counter is then drained here."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="anymamba")
        pool = _pool
    others = [pool.submit(function, data) for _ in range(workers - 1)]
    function(data)
    for other in others:
        other.result()


def _after_fork() -> None:
    global _forked, _pool, _pool_lock
    _forked, _pool, _pool_lock = True, None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

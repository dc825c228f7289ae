"""The functions of the packages as callers see them, upstream's signature and a counter; and who served the ops under them."""

from __future__ import annotations

import functools
import inspect
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from anymamba.backends import REGISTRY, dispatch, observers
from anymamba.backends.call import Call
from anymamba.backends.choice import Choice

_lock = threading.Lock()
called: Counter[str] = Counter()
"""mamba_ssm.... or causal_conv1d.... function -> how often it was called. Calls inside a compiled graph appear under served only."""
served: Counter[tuple[str, str]] = Counter()
"""(op, backend) -> how often."""
fell_back: Counter[tuple[str, str, str]] = Counter()
"""(op, backend, why the backends meant for the device did not) -> how often."""


def counted(module: str, op: Callable[..., Any], runs: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """The public op as a function of that module: without the keyword ``backend``, so with upstream's signature. runs: what is called
    in its place, with the same arguments."""
    target = op if runs is None else runs
    signature = inspect.signature(op)
    upstream = [parameter for parameter in signature.parameters.values() if parameter.kind is not inspect.Parameter.KEYWORD_ONLY]
    key = f"{module}.{op.__name__}"

    @functools.wraps(op)
    def function(*arguments: Any, **keywords: Any) -> Any:
        if not torch.compiler.is_compiling():
            with _lock:
                called[key] += 1
        return target(*arguments, **keywords)

    function.__module__ = module
    function.__signature__ = signature.replace(parameters=upstream)  # type: ignore[attr-defined]
    observers.observe(_observe)
    return function


def forget() -> None:
    """Sets every count to zero."""
    with _lock:
        for counter in (called, served, fell_back):
            counter.clear()


def _observe(call: Call, choice: Choice) -> None:
    with _lock:
        served[call.op, choice.backend] += 1
        if choice.rejected and not REGISTRY[choice.backend].devices:
            meant = [f"{name}: {why}" for name, why in choice.rejected if name in REGISTRY and dispatch.misses(REGISTRY[name], call)]
            if meant:
                fell_back[call.op, choice.backend, "; ".join(meant)] += 1

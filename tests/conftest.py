"""What every test gets: a fixed seed, English, a cache folder of its own, and memory that is NaN until somebody writes to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Compiled kernels and self-check verdicts of the tests: kept for the session, apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("ANYMAMBA_CACHE_DIR", str(folder))
        patch.setenv("ANYMAMBA_LANG", "en")
        patch.delenv("ANYMAMBA_BACKEND", raising=False)
        yield folder


@pytest.fixture(autouse=True)
def fixed_seed(request: pytest.FixtureRequest) -> None:
    if _uses_torch(request):
        import torch

        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def choices_of_the_process() -> Iterator[None]:
    """A verb of the command line chooses backend, threads and environment for its whole process. Here that process runs other tests
    afterwards."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch is not None else 0
    inherited = {name: os.environ.get(name) for name in ("PYTHONPATH", "ANYMAMBA_DROPIN_OVERRIDE")}
    observers = sys.modules.get("anymamba.backends.observers")
    watching = list(observers.active) if observers is not None else []
    yield
    observers = sys.modules.get("anymamba.backends.observers")
    if observers is not None:
        observers.active[:] = watching
    for name, value in inherited.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    dispatch = sys.modules.get("anymamba.backends.dispatch")
    if dispatch is not None:
        dispatch.set_backend(None)
    if torch is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_other_programs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs inside the test's process neither wait for a look at the other programs nor change their threads because of them."""
    if request.path.name != "test_threads.py" and any(part in ("training", "cli") for part in request.path.parts):
        monkeypatch.setattr("anymamba.training.machine.cpu_use.read", lambda: (None, ""))


@pytest.fixture(autouse=True)
def poisoned_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.empty and its kin return NaN (integers: their largest value), so that a result nobody wrote shows."""
    if not _uses_torch(request):
        return
    import torch
    from torch.utils._device import _device_constructors
    from torch.utils._python_dispatch import _disable_current_modes

    _device_constructors()  # remembers torch.empty itself: `with torch.device("meta")` must still know it when it is replaced

    def poisoning(function: Callable[..., Any]) -> Callable[..., Any]:
        def poisoned(*args: Any, **kwargs: Any) -> Any:
            tensor = function(*args, **kwargs)
            if type(tensor) is torch.Tensor and not torch.compiler.is_compiling() and not tensor.is_meta:
                with torch.no_grad(), _disable_current_modes():  # tests that record operators do not see it
                    if tensor.is_floating_point() or tensor.is_complex():
                        tensor.fill_(float("nan"))
                    elif tensor.dtype in (torch.int32, torch.int64):
                        tensor.fill_(torch.iinfo(tensor.dtype).max)
            return tensor

        return poisoned

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoning(getattr(torch, name)))
    for name in ("new_empty", "new_empty_strided"):
        monkeypatch.setattr(torch.Tensor, name, poisoning(getattr(torch.Tensor, name)))


@pytest.fixture(scope="session", autouse=True)
def bfloat16_in_the_interpreter() -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        from anymamba.numerics import interpreted_bfloat16

        interpreted_bfloat16.mend()


def _uses_torch(request: pytest.FixtureRequest) -> bool:
    """The doctor's tests and others run without torch, and stay so."""
    return any(part in ("ops", "backends", "models", "training", "generation", "numerics") for part in request.path.parts)

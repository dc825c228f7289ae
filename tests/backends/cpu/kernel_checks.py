"""What the tests of the CPU kernels share: every vector width, dirty scratch memory, a watch on copies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from anymamba.backends.cpu.conv import causal_conv1d, causal_conv1d_step
from anymamba.backends.cpu.jit import compile, target
from anymamba.backends.cpu.norm import norm
from anymamba.backends.cpu.scan import selective_scan, selective_state_update
from anymamba.backends.cpu.ssd import ssd

WIDTHS = (16, 8, 4)

Outcome = list[Tensor]


_CACHES = (
    ssd._program, causal_conv1d._program, causal_conv1d_step._program, norm.program,
    selective_scan._forward_program, selective_scan._backward_program, selective_state_update._program,
)  # fmt: skip


@contextlib.contextmanager
def lanes(width: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels have this many lanes inside the block; skips the test where the processor has fewer."""
    monkeypatch.setenv(target.WIDTH_VARIABLE, str(width))
    try:
        target.host()
    except ValueError as error:
        pytest.skip(str(error))
    for cache in _CACHES:
        cache.cache_clear()
    try:
        yield
    finally:
        for cache in _CACHES:
            cache.cache_clear()


def dirty_scratch() -> None:
    """Fills the kernels' scratch memory with NaN."""
    if getattr(compile._local, "size", 0):
        compile._local.memory.fill_(0xFF)


def run(function: Callable[..., Any], inputs: dict[str, Any], dtype: torch.dtype, **options: Any) -> Outcome:
    """Outputs, then the gradients of the floating inputs. Half inputs stay what they are when dtype is float64."""
    given = {
        name: value.detach().to(dtype).requires_grad_() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    outputs = function(**given, **options)
    outputs = [output for output in (outputs if isinstance(outputs, tuple) else (outputs,)) if output is not None]
    leaves = [value for value in given.values() if isinstance(value, Tensor) and value.requires_grad]
    cotangents = [torch.linspace(-1, 1, o.numel(), dtype=torch.float64).cos().view(o.shape).to(o) for o in outputs]
    return [o.detach() for o in outputs] + list(torch.autograd.grad(outputs, leaves, cotangents))


def assert_close(got: Outcome, exact: Outcome, tolerance: float) -> None:
    assert len(got) == len(exact)
    for i, (a, b) in enumerate(zip(got, exact)):
        error = (a.double() - b).abs().max() / b.abs().max().clamp(min=1e-20)
        assert error <= tolerance, f"result {i} is off by {error:.2g}"


class Copies(TorchDispatchMode):
    """Counts the elements of the largest tensor that a PyTorch operator copies while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("clone", "copy_", "_to_copy", "contiguous", "cat") and isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        return result

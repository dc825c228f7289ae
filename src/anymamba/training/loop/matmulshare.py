"""How long the matrix products of a step take: the part that no kernel of ours can make faster.

A dispatch mode sees every product that torch runs, forward and backward, also inside our own ops. (torch.profiler would tell
the same, but takes a second to start and prints to the terminal.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from anymamba.ops.widened_product import product_times

_aten = torch.ops.aten
PRODUCTS = {_aten.mm, _aten.addmm, _aten.addmm_, _aten.bmm, _aten.baddbmm, _aten.baddbmm_, _aten._addmm_activation}


class _TimedProducts(TorchDispatchMode):
    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.on_gpu = device.type == "cuda"
        self.seconds = 0.0
        self.events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket not in PRODUCTS:
            if func.namespace == "aten":
                return func(*args, **kwargs)
            with self:  # one of our ops may have products inside
                return func(*args, **kwargs)
        if self.on_gpu:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            result = func(*args, **kwargs)
            end.record()
            self.events.append((start, end))
            return result
        begin = time.perf_counter()
        result = func(*args, **kwargs)
        self.seconds += time.perf_counter() - begin
        return result


def product_seconds(work: Callable[[], None], device: torch.device) -> float:
    """Seconds that ``work`` spends inside matrix products."""
    timed = _TimedProducts(device)
    with timed, product_times() as widened:
        work()
    if timed.on_gpu:
        torch.cuda.synchronize(device)
        return sum(start.elapsed_time(end) for start, end in timed.events) / 1e3
    return timed.seconds + sum(widened)

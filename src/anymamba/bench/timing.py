"""Medians with their spread. Contenders take turns, so that a busy moment of the machine hits all of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Spread:
    """Seconds a call: the median of ``runs`` calls, the fastest and the slowest of them."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, samples: list[float]) -> Spread:
        return cls(statistics.median(samples), min(samples), max(samples), len(samples))


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds between least and most, until every contender has had ``seconds``. One whose first call takes
    longer than patience is called only that once."""

    seconds: float = 4.0
    least: int = 5
    most: int = 200
    patience: float = 10.0


QUICK = Effort(seconds=0.25, least=3, most=30, patience=1.0)
CUDA = Effort(seconds=0.6, least=5, most=30, patience=3.0)
"""A sample is several calls there, and time on a GPU is dear."""


def effort_for(device: torch.device, quick: bool) -> Effort:
    return QUICK if quick else CUDA if device.type == "cuda" else Effort()


def measure(
    contenders: Mapping[str, Callable[[], Any]],
    device: torch.device,
    effort: Effort,
    failed: dict[str, str] | None = None,
) -> dict[str, Spread]:
    """Times every contender; the first call of each, which warms up, does not count unless it is the only one.

    One whose first call raises is left out and its reason noted in failed; without failed the exception passes."""
    samples: dict[str, list[float]] = {}
    running, sample = dict(contenders), {}
    for name, function in contenders.items():
        try:
            first = _host_sample(function, device)[0]
        except Exception as error:
            if failed is None:
                raise
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            del running[name]
            continue
        if first > effort.patience:
            samples[name] = [first]
            del running[name]
        else:
            samples[name] = []
            short = device.type == "cuda" and first < _SHORT_SECONDS
            sample[name] = _cuda_sample if short else _host_sample
    spent = dict.fromkeys(running, 0.0)
    for done in range(effort.most):
        for name in list(running):
            if done >= effort.least and spent[name] > effort.seconds:
                del running[name]
                continue
            started = time.perf_counter()
            samples[name] += sample[name](running[name], device)
            spent[name] += time.perf_counter() - started
        if not running:
            break
    return {name: Spread.of(values) for name, values in samples.items()}


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what was asked of it."""
    module: Any = getattr(torch, device.type, None)
    if device.type != "cpu" and module is not None:
        module.synchronize()


def _host_sample(function: Callable[[], Any], device: torch.device) -> list[float]:
    synchronize(device)
    started = time.perf_counter()
    function()
    synchronize(device)
    return [time.perf_counter() - started]


_SHORT_SECONDS = 0.05
"""A call on CUDA that takes longer is timed by the host: its launches cost nothing beside it."""
_FLUSH_BYTES = 256 * 2**20
_FLUSHES, _MOST_FLUSHES = 12, 60
"""Before each call: one to five milliseconds in which the host can prepare its launches. Not more, for time on a GPU is dear."""
_HEAD_START = 3
"""Times as long as the host takes for that it is given: a host that others use as well stumbles."""
_CALLS_A_SAMPLE = 10


def _cuda_sample(function: Callable[[], Any], device: torch.device) -> list[float]:
    """Each call is timed on the device between two events, after its L2 cache was overwritten. Nothing waits in between: while
    the device overwrites the cache the host prepares the next launch, so that short kernels are not charged for Python."""
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device)
    flushes = _flushes(function, flush)
    events = []
    for _ in range(_CALLS_A_SAMPLE):
        for _ in range(flushes):
            flush.zero_()
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        function()
        after.record()
        events.append((before, after))
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) / 1e3 for before, after in events]


def _flushes(function: Callable[[], Any], flush: torch.Tensor) -> int:
    """How often the cache is overwritten before a call, so that its launches are all in the queue when the device gets there."""
    torch.cuda.synchronize(flush.device)
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    for _ in range(_FLUSHES):
        flush.zero_()
    after.record()
    started = time.perf_counter()
    function()
    host = time.perf_counter() - started
    torch.cuda.synchronize(flush.device)
    one = before.elapsed_time(after) / 1e3 / _FLUSHES
    return min(max(_FLUSHES, math.ceil(_HEAD_START * host / one)), _MOST_FLUSHES)

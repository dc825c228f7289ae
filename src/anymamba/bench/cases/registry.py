"""Every case, and the choice among them."""

from __future__ import annotations

import fnmatch
import functools

import torch

from anymamba.bench.cases import memory_cases, model_cases, op_cases
from anymamba.bench.cases.case import Case


def select(device: torch.device, only: str | None = None, quick: bool = False) -> list[Case]:
    """The cases for this kind of device whose name contains ``only`` or matches it as a shell pattern. A device without cases
    of its own (mps, xpu) gets the CUDA-sized ones of time."""
    kind = device.type if device.type in ("cpu", "cuda") else "cuda"
    cases = [case for case in every_case() if case.device_type == kind and (case.quick or not quick)]
    if only:
        cases = [case for case in cases if only in case.name or fnmatch.fnmatch(case.name, only)]
    # what tells most about running a model comes first: there may be no time for all
    return sorted(cases, key=lambda case: ("backward" in case.name, case.seconds)) if quick else cases


@functools.cache
def every_case() -> tuple[Case, ...]:
    """Every case there is. Names are unique per kind of device."""
    return (*op_cases.cases(), *model_cases.cases(), *memory_cases.cases())

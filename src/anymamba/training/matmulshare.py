"""What part of a step's time goes into matrix products: the part that no kernel of ours can make faster."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

PRODUCTS = (
    "aten::mm",
    "aten::addmm",
    "aten::addmm_",
    "aten::bmm",
    "aten::baddbmm",
    "aten::baddbmm_",
    "aten::_addmm_activation",
    "aten::mkldnn_linear",
    "mkldnn::_linear_pointwise",
)


def measure(step: Callable[[], None], device: torch.device) -> float:
    """Runs one step under torch's profiler: the time inside matrix products over the time of the whole step, 0 to 1.

    On an accelerator both are its own times, on a CPU those of the calling thread, in which products use all cores.
    """
    activities = [ProfilerActivity.CPU]
    on_gpu = device.type == "cuda"
    if on_gpu:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as recorded:
        begin = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize(device)
        wall = time.perf_counter() - begin
    inside = 0.0
    for event in recorded.key_averages():
        if event.key in PRODUCTS:
            inside += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    return min(1.0, inside / 1e6 / wall) if wall > 0 else 0.0

"""Facts about this machine's processor, accelerators and kernel libraries: gathered once, and only when asked."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from typing import Any

import torch

from anymamba.errors import AnymambaError
from anymamba.language import _


@functools.cache
def library_version(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def cpu_name() -> str:
    """The processor as the system names it."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.lower().startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def default_device() -> torch.device:
    """The fastest kind of device here: CUDA or ROCm, XPU, Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return torch.device("xpu")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def usable_device(name: str) -> torch.device:
    """The device that a user named ("cpu", "cuda:1"). Raises AnymambaError (usage) for one that torch or this machine does not have."""
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("meta tensors have no values")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = sorted({"cpu", default_device().type})
        raise AnymambaError(
            "usage",
            _("--device {name} cannot be used here").format(name=name),
            why=str(error).splitlines()[0],
            fix=_("this machine has {here}; `anymamba doctor` says why a GPU is not seen").format(here=", ".join(here)),
        ) from error
    return device


def facts() -> dict[str, Any]:
    """What names this machine in a results file. No host name, no user name, no path."""
    answer: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "llvmlite": library_version("llvmlite"),
        "triton": library_version("triton") or library_version("triton-windows"),
        "gpus": [],
    }
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            answer["gpus"].append(
                {
                    "name": properties.name,
                    "capability": f"{properties.major}.{properties.minor}",
                    "memory_GiB": round(properties.total_memory / 2**30, 1),
                    "processors": properties.multi_processor_count,
                }
            )
        answer["cuda"] = torch.version.cuda
        answer["rocm"] = torch.version.hip
    return answer

"""The operating system: which, in WSL or a container, with how much memory and disk."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from typing import Any, Dict, Optional


def gather() -> Dict[str, Any]:
    kind = _kind()
    facts: Dict[str, Any] = {
        "kind": kind,
        "name": _name(),
        "machine": platform.machine(),
        "container": _container(),
        "cores": _cores(),
        "memory_gb": _memory_gb(),
        "temporary_free_gb": round(shutil.disk_usage(tempfile.gettempdir()).free / 1e9, 1),
    }
    if kind == "windows":
        facts["long_paths"] = _long_paths()
    return facts


def _kind() -> str:
    if sys.platform == "win32":
        return "windows"
    if sys.platform == "darwin":
        return "macos"
    return "wsl" if "microsoft" in platform.release().lower() else "linux"


def _name() -> str:
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            for line in file:
                if line.startswith("PRETTY_NAME="):
                    return line.split("=", 1)[1].strip().strip('"')
    except OSError:
        pass  # not Linux, or a container without it: the platform's own name follows
    if sys.platform == "darwin":
        return "macOS " + platform.mac_ver()[0]
    return "{} {}".format(platform.system(), platform.release())


def _container() -> Optional[str]:
    if os.environ.get("NVIDIA_PRODUCT_NAME"):
        return "NVIDIA " + os.environ["NVIDIA_PRODUCT_NAME"]
    if "COLAB_RELEASE_TAG" in os.environ or "COLAB_GPU" in os.environ:
        return "Colab"
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "Kaggle"
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "Kubernetes"
    if os.path.exists("/.dockerenv"):
        return "Docker"
    if os.path.exists("/run/.containerenv"):
        return "Podman"
    if os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER"):
        return "Apptainer"
    return None


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gb() -> Optional[float]:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            total = int(next(line for line in file if line.startswith("MemTotal")).split()[1]) * 1024
    except (OSError, StopIteration):
        return _memory_elsewhere()
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(limit, encoding="ascii") as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return round(total / 1e9, 1)


def _memory_elsewhere() -> Optional[float]:
    if sys.platform == "win32":
        import ctypes

        class Status(ctypes.Structure):
            _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
                (name, ctypes.c_ulonglong) for name in "abcdefg"
            ]

        status = Status()
        status.length = ctypes.sizeof(Status)
        if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined]
            return round(status.a / 1e9, 1)
        return None
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _long_paths() -> Optional[bool]:
    try:
        import winreg

        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem") as key:  # type: ignore[attr-defined]
            return bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])  # type: ignore[attr-defined]
    except (ImportError, OSError):
        return None

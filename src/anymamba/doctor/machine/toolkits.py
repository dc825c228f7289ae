"""CUDA toolkits and nvccs of this machine, and the one that a build would use."""

from __future__ import annotations

import glob
import os
import re
import shutil
import sys
from typing import Any, Dict, List, Optional

from anymamba.doctor.machine.command import Budget


def nothing() -> Dict[str, Any]:
    """The facts before anything is known."""
    facts: Dict[str, Any] = {"nvccs": [], "home": None, "home_without_nvcc": False, "used": None, "hipcc": None, "rocm": None}
    return dict(facts, late=False)


def gather(budget: Budget) -> Dict[str, Any]:
    found: List[Dict[str, Any]] = []
    silent: List[str] = []
    for path in _candidates():
        real = os.path.realpath(path)
        if os.path.exists(path) and real not in [os.path.realpath(item["path"]) for item in found]:
            answer = budget.ask([path, "--version"])
            number = re.search(r"release (\d+\.\d+)", answer.output)
            toolkit = _toolkit(path, budget)
            version = number.group(1) if number else _header_version(toolkit["headers"]) if answer.late else ""
            if answer.late and not version:
                silent.append(path)
            item = {"path": path, "version": version, "error": "" if version else answer.error or ""}
            found.append(dict(item, **toolkit))
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    # an nvcc that had no time to answer counts as one that works: which one it is, is all that is not known then
    used = _used([dict(item, version=item["version"] or "?") if item["path"] in silent else item for item in found], home)
    late = bool(silent) and (used is None or used["path"] in silent)
    return {
        "nvccs": found,
        "home": home,
        "home_without_nvcc": bool(home and not os.path.exists(_nvcc(home))),
        "used": None if late else used,
        "hipcc": shutil.which("hipcc"),
        "rocm": os.environ.get("ROCM_PATH") or ("/opt/rocm" if os.path.isdir("/opt/rocm") else None),
        "late": late,
    }


def _header_version(headers: Optional[str]) -> str:
    """What the toolkit's headers call themselves, "" where they do not say: for an nvcc that does not answer in time."""
    try:
        with open(os.path.join(headers or "", "cuda_runtime_api.h"), encoding="utf-8", errors="replace") as file:
            number = re.search(r"#define\s+CUDART_VERSION\s+(\d+)", file.read(20_000))
    except OSError:
        return ""
    return "{}.{}".format(int(number.group(1)) // 1000, int(number.group(1)) % 1000 // 10) if number else ""


def _nvcc(home: str) -> str:
    return os.path.join(home, "bin", "nvcc.exe" if sys.platform == "win32" else "nvcc")


def _toolkit(path: str, budget: Budget) -> Dict[str, Any]:
    """"root": the folder that CUDA_HOME must name, "headers": where cuda_runtime.h lies; None where it is not found.

    An nvcc on PATH may be a script that calls the real one (Debian, conda): then nvcc itself says where it lies.
    """
    real = os.path.realpath(path)
    roots = [os.path.dirname(os.path.dirname(item)) for item in (path, real)]
    for root in roots:
        headers = _headers(root)
        if headers:
            return {"root": root, "headers": headers}
    said = re.search(r"TOP=(.+)", budget.ask([path, "--dryrun", "-E", "-x", "cu", os.devnull]).output)
    root = os.path.normpath(said.group(1).strip()) if said else roots[-1]
    return {"root": root, "headers": _headers(root)}


def _headers(root: str) -> Optional[str]:
    for include in [os.path.join(root, "include"), *glob.glob(os.path.join(root, "targets", "*", "include"))]:
        if os.path.exists(os.path.join(include, "cuda_runtime.h")):
            return include
    return None


def _candidates() -> List[str]:
    """In the order in which torch looks: CUDA_HOME, PATH, /usr/local/cuda; then what else is installed."""
    places = [_nvcc(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    on_path = shutil.which("nvcc")
    places += [on_path] if on_path else []
    places += [_nvcc(os.path.join(sys.prefix))]
    places += (
        [_nvcc("/usr/local/cuda")]
        + sorted(glob.glob("/usr/local/cuda-*/bin/nvcc"))
        + sorted(glob.glob("/opt/cuda*/bin/nvcc"))
    )
    places += sorted(glob.glob(r"C:\Program Files\NVIDIA GPU Computing Toolkit\CUDA\v*\bin\nvcc.exe"))
    return places


def _used(found: List[Dict[str, Any]], home: Optional[str]) -> Optional[Dict[str, Any]]:
    if home:
        return next((item for item in found if item["path"] == _nvcc(home) and item["version"]), None)
    on_path = shutil.which("nvcc")
    for path in (on_path, _nvcc("/usr/local/cuda")):
        chosen = next(
            (
                item
                for item in found
                if path and os.path.realpath(item["path"]) == os.path.realpath(path) and item["version"]
            ),
            None,
        )
        if chosen:
            return chosen
    if sys.platform == "win32" and found:
        return found[0]
    return None

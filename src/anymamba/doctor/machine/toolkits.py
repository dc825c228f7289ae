"""CUDA toolkits and nvccs of this machine, and the one that a build would use."""

from __future__ import annotations

import glob
import os
import re
import shutil
import sys
from typing import Any, Dict, List, Optional

from anymamba.doctor.machine.command import ask


def gather() -> Dict[str, Any]:
    found: List[Dict[str, Any]] = []
    for path in _candidates():
        real = os.path.realpath(path)
        if os.path.exists(path) and real not in [os.path.realpath(item["path"]) for item in found]:
            answer = ask([path, "--version"])
            number = re.search(r"release (\d+\.\d+)", answer.output)
            found.append({"path": path, "version": number.group(1) if number else "", "error": answer.error or ""})
            found[-1].update(_toolkit(path))
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return {
        "nvccs": found,
        "home": home,
        "home_without_nvcc": bool(home and not os.path.exists(_nvcc(home))),
        "used": _used(found, home),
        "hipcc": shutil.which("hipcc"),
        "rocm": os.environ.get("ROCM_PATH") or ("/opt/rocm" if os.path.isdir("/opt/rocm") else None),
    }


def _nvcc(home: str) -> str:
    return os.path.join(home, "bin", "nvcc.exe" if sys.platform == "win32" else "nvcc")


def _toolkit(path: str) -> Dict[str, Any]:
    """"root": the folder that CUDA_HOME must name, "headers": where cuda_runtime.h lies; None where it is not found.

    An nvcc on PATH may be a script that calls the real one (Debian, conda): then nvcc itself says where it lies.
    """
    real = os.path.realpath(path)
    roots = [os.path.dirname(os.path.dirname(item)) for item in (path, real)]
    said = re.search(r"TOP=(.+)", ask([path, "--dryrun", "-E", "-x", "cu", os.devnull]).output)
    roots += [os.path.normpath(said.group(1).strip())] if said else []
    for root in roots:
        for include in [os.path.join(root, "include"), *glob.glob(os.path.join(root, "targets", "*", "include"))]:
            if os.path.exists(os.path.join(include, "cuda_runtime.h")):
                return {"root": root, "headers": include}
    return {"root": roots[-1], "headers": None}


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

"""torch: which build, by its own files; and, in another process, whether it imports and what it sees."""

from __future__ import annotations

import re
from typing import Any, Dict, Optional

from anymamba.doctor.machine import distributions

PROBE = """
import time
start = time.time()
import torch
facts = {"version": torch.__version__, "cuda": torch.version.cuda, "hip": getattr(torch.version, "hip", None),
         "abi": bool(getattr(torch._C, "_GLIBCXX_USE_CXX11_ABI", True)), "import_seconds": round(time.time() - start, 1)}
facts["gpu"] = bool(torch.cuda.is_available())
facts["archs"] = list(torch.cuda.get_arch_list()) if facts["gpu"] else []
if facts["gpu"]:
    facts["capability"] = list(torch.cuda.get_device_capability(0))
    try:
        facts["runs"] = float(torch.ones(2, device="cuda").sum()) == 2.0
    except Exception as error:
        facts["runs"], facts["run_error"] = False, str(error)
try:
    from torch.utils import cpp_extension
    facts["cuda_home"] = cpp_extension.CUDA_HOME
except Exception as error:
    facts["cuda_home_error"] = str(error)
tell("torch", facts)
"""
"""Run in another process, where ``tell`` prints a stage's facts."""


def gather() -> Dict[str, Any]:
    """Without importing it: version and CUDA from torch/version.py."""
    version = distributions.version("torch")
    if version is None:
        return {"installed": False}
    facts: Dict[str, Any] = {"installed": True, "version": version, "cuda": None, "hip": None}
    text = _version_file()
    if text:
        facts["version"] = _value(text, "__version__") or version
        facts["cuda"], facts["hip"] = _value(text, "cuda"), _value(text, "hip")
    facts["kind"] = "cuda" if facts["cuda"] else "rocm" if facts["hip"] else "cpu"
    abi = _abi()
    if abi is not None:
        facts["abi"] = abi
    return facts


def _version_file() -> Optional[str]:
    return _read("torch/version.py")


def _abi() -> Optional[bool]:
    """The C++11 ABI that extensions must be compiled with, from the file that torch keeps for CMake; None where it does not say."""
    text = _read("torch/share/cmake/Torch/TorchConfig.cmake")
    found = re.search(r"_GLIBCXX_USE_CXX11_ABI=([01])", text or "")
    return found.group(1) == "1" if found else None


def _read(name: str) -> Optional[str]:
    path = distributions.locate("torch", name)
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return None


def _value(text: str, name: str) -> Optional[str]:
    found = re.search(r"^{}\s*(?::[^=\n]*)?=\s*['\"]([^'\"]+)['\"]".format(re.escape(name)), text, re.M)
    return found.group(1) if found else None

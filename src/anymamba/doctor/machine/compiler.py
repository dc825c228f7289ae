"""The host compiler, and the newest one that this nvcc accepts."""

from __future__ import annotations

import os
import re
import shutil
import sys
from typing import Any, Dict, Optional

from anymamba.doctor.machine.command import ask

# (CUDA version from which on, first gcc that is refused); torch.utils.cpp_extension has the same bounds
_LIMITS = (((13, 0), 16), ((12, 8), 15), ((12, 3), 14), ((12, 0), 13), ((11, 4), 12), ((11, 0), 11))


def gather(nvcc_version: Optional[str]) -> Dict[str, Any]:
    facts: Dict[str, Any] = {"limit": limit(nvcc_version), "gcc": None, "others": [], "msvc": None}
    facts["gcc"] = _gcc(os.environ.get("CXX") or "g++")
    # Linux distributions install older ones beside the usual one under such names
    facts["others"] = [item for item in (_gcc("g++-{}".format(major)) for major in range(9, 20)) if item]
    if sys.platform == "win32":
        facts["msvc"] = _msvc()
    return facts


def _gcc(name: str) -> Optional[Dict[str, Any]]:
    path = shutil.which(name)
    answer = ask([path, "-dumpfullversion", "-dumpversion"]) if path else None
    number = re.match(r"(\d+)[\d.]*", answer.first_line) if answer and not answer.error else None
    return {"path": path, "version": answer.first_line, "major": int(number.group(1))} if answer and number else None


def limit(nvcc_version: Optional[str]) -> Optional[int]:
    """The first gcc major version that an nvcc refuses."""
    if not nvcc_version:
        return None
    number = tuple(int(part) for part in nvcc_version.split(".")[:2])
    return next((refused for since, refused in _LIMITS if number >= since), 10)


def _msvc() -> Optional[str]:
    on_path = shutil.which("cl")
    if on_path:
        return on_path
    finder = os.path.join(
        os.environ.get("PROGRAMFILES(X86)", r"C:\Program Files (x86)"),
        "Microsoft Visual Studio",
        "Installer",
        "vswhere.exe",
    )
    if not os.path.exists(finder):
        return None
    answer = ask(
        [
            finder,
            "-latest",
            "-products",
            "*",
            "-requires",
            "Microsoft.VisualStudio.Component.VC.Tools.x86.x64",
            "-property",
            "installationPath",
        ]
    )
    return answer.first_line or None

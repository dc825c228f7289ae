"""The host compiler, and the newest one that this nvcc accepts."""

from __future__ import annotations

import os
import re
import shutil
import sys
from typing import Any, Dict, Optional

from anymamba.doctor.machine.command import Budget

# (CUDA version from which on, first gcc that is refused); torch.utils.cpp_extension has the same bounds
_LIMITS = (((13, 0), 16), ((12, 8), 15), ((12, 3), 14), ((12, 0), 13), ((11, 4), 12), ((11, 0), 11))


def nothing() -> Dict[str, Any]:
    """The facts before anything is known."""
    return {"limit": None, "gcc": None, "others": [], "msvc": None, "late": False}


def gather(nvcc_version: Optional[str], budget: Budget) -> Dict[str, Any]:
    facts = dict(nothing(), limit=limit(nvcc_version))
    # Linux distributions install older ones beside the usual one under such names
    names = [os.environ.get("CXX") or "g++"] + ["g++-{}".format(major) for major in range(9, 20)]
    answers = [_gcc(name, budget) for name in names]
    facts["gcc"], facts["others"] = answers[0].get("gcc"), [item["gcc"] for item in answers[1:] if "gcc" in item]
    facts["late"] = any(item.get("late") for item in answers)
    if sys.platform == "win32":
        facts["msvc"] = _msvc(budget)
        facts["late"] = facts["late"] or (facts["msvc"] is None and not budget.left)
    return facts


def _gcc(name: str, budget: Budget) -> Dict[str, Any]:
    """{"gcc": its path and version}, {"late": True}, or nothing where there is none of this name."""
    path = shutil.which(name)
    if not path:
        return {}
    answer = budget.ask([path, "-dumpfullversion", "-dumpversion"])
    number = re.match(r"(\d+)[\d.]*", answer.first_line) if not answer.error else None
    if not number:
        return {"late": answer.late}
    return {"gcc": {"path": path, "version": answer.first_line, "major": int(number.group(1))}}


def limit(nvcc_version: Optional[str]) -> Optional[int]:
    """The first gcc major version that an nvcc refuses."""
    if not nvcc_version:
        return None
    number = tuple(int(part) for part in nvcc_version.split(".")[:2])
    return next((refused for since, refused in _LIMITS if number >= since), 10)


def _msvc(budget: Budget) -> Optional[str]:
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
    answer = budget.ask(
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

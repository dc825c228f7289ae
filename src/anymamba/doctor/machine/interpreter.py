"""This Python: its version, what kind of environment it is, and the installers beside it."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any, Dict

from anymamba.doctor.machine import distributions
from anymamba.doctor.machine.command import Budget


def gather(budget: Budget) -> Dict[str, Any]:
    uv = shutil.which("uv")
    # where there is no time for it, that there is a uv is enough
    answer = budget.ask([uv, "--version"]) if uv else None
    return {
        "version": sys.version.split()[0],
        "minor": sys.version_info[1],
        "executable": sys.executable,
        "environment": _environment(),
        "pip": distributions.version("pip"),
        "uv": (answer.first_line.replace("uv ", "") or "PATH") if answer else None,
        "setuptools": distributions.version("setuptools"),
        "wheel": distributions.version("wheel"),
        "packaging": distributions.version("packaging"),
        "ninja": distributions.version("ninja") or ("PATH" if shutil.which("ninja") else None),
    }


def _environment() -> str:
    if os.path.isdir(os.path.join(sys.prefix, "conda-meta")):
        return "conda ({})".format(os.environ.get("CONDA_DEFAULT_ENV", os.path.basename(sys.prefix)))
    if sys.prefix != sys.base_prefix:
        try:
            with open(os.path.join(sys.prefix, "pyvenv.cfg"), encoding="utf-8") as file:
                made_by = "uv" if "\nuv =" in "\n" + file.read() else "venv"
        except OSError:
            made_by = "venv"
        return "poetry" if "pypoetry" in sys.prefix else made_by
    if os.path.exists(os.path.join(os.path.dirname(os.__file__), "EXTERNALLY-MANAGED")):
        return "system, externally managed"
    return "system"

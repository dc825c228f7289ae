"""GPUs and their driver, without importing torch."""

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
    return {"nvidia": [], "amd": [], "driver": None, "cuda": None, "driver_error": None, "late": False}


def gather(budget: Budget) -> Dict[str, Any]:
    facts = dict(nothing(), amd=_amd())
    tool = _nvidia_smi()
    if tool is None:
        if os.path.exists("/dev/dxg") and not os.path.exists("/usr/lib/wsl/lib/libcuda.so.1"):
            facts["driver_error"] = "/usr/lib/wsl/lib/libcuda.so.1: not there"
        return facts
    answer = budget.ask([tool, "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader"])
    if answer.error and "compute_cap" in answer.output:
        # drivers before 465 do not know compute_cap
        answer = budget.ask([tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
    if answer.late:
        facts["late"] = True
        return facts
    if answer.error:
        facts["driver_error"] = answer.output.strip()[:300] or answer.error
        return facts
    for line in answer.output.strip().split("\n"):
        parts = [part.strip() for part in line.split(",")]
        if len(parts) >= 3:
            capability = parts[1] if len(parts) == 4 else ""
            facts["nvidia"].append({"name": parts[0], "capability": capability, "memory": parts[-2]})
            facts["driver"] = parts[-1]
    found = re.search(r"CUDA Version:\s*([\d.]+)", budget.ask([tool]).output)
    facts["cuda"] = found.group(1) if found else None
    return facts


def _nvidia_smi() -> Optional[str]:
    tool = shutil.which("nvidia-smi")
    if tool:
        return tool
    places = ["/usr/lib/wsl/lib/nvidia-smi"]
    if sys.platform == "win32":
        places = [os.path.join(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvidia-smi.exe")]
    return next((place for place in places if os.path.exists(place)), None)


def _amd() -> List[str]:
    """gfx names of the AMD GPUs that the Linux kernel's compute driver lists."""
    names = []
    for path in sorted(glob.glob("/sys/class/kfd/kfd/topology/nodes/*/properties")):
        try:
            with open(path, encoding="ascii") as file:
                found = re.search(r"gfx_target_version (\d+)", file.read())
        except OSError:
            continue
        if found and int(found.group(1)):
            number = int(found.group(1))
            names.append("gfx{}{:x}{:x}".format(number // 10000, number // 100 % 100, number % 100))
    return names

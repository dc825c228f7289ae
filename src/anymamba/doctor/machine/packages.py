"""mamba-ssm and causal-conv1d: installed, importable, and do they compute."""

from __future__ import annotations

import importlib.util
import os
from typing import Any, Dict, List

from anymamba.doctor.machine import distributions

_PROBE = """
result = {"errors": {}, "imported": []}
import torch
for name in ("causal_conv1d_cuda", "selective_scan_cuda", "causal_conv1d", "mamba_ssm"):
    if name not in WANTED:
        continue
    try:
        __import__(name)
        result["imported"].append(name)
    except BaseException as error:
        result["errors"][name] = "{}: {}".format(type(error).__name__, str(error).split("\\n")[0][:300])
if torch.cuda.is_available() and "causal_conv1d" in result["imported"]:
    try:
        from causal_conv1d import causal_conv1d_fn
        x = torch.ones(1, 8, 16, device="cuda")
        out = causal_conv1d_fn(x, torch.ones(8, 4, device="cuda"))
        result["conv_right"] = bool(abs(float(out[0, 0, -1]) - 4.0) < 1e-3)
    except BaseException as error:
        result["errors"]["causal_conv1d_fn"] = "{}: {}".format(type(error).__name__, str(error).split("\\n")[0][:300])
if torch.cuda.is_available() and "mamba_ssm" in result["imported"]:
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
        u = torch.ones(1, 8, 16, device="cuda")
        zero = torch.zeros(8, 4, device="cuda")
        out = selective_scan_fn(u, u, zero, torch.ones(8, 4, device="cuda"), torch.ones(8, 4, device="cuda"))
        result["scan_right"] = bool(abs(float(out[0, 0, -1]) - 64.0) < 1e-2)
    except BaseException as error:
        result["errors"]["selective_scan_fn"] = "{}: {}".format(type(error).__name__, str(error).split("\\n")[0][:300])
tell("packages", result)
"""


def gather() -> Dict[str, Any]:
    """Without importing anything."""
    facts: Dict[str, Any] = {"errors": {}, "libraries": [], "working": False, "probed": False}
    for module, name in (("mamba_ssm", "mamba-ssm"), ("causal_conv1d", "causal-conv1d")):
        facts[module] = _package(module, name)
        facts["libraries"] += _libraries(name)
    return facts


def modules(facts: Dict[str, Any]) -> List[str]:
    """The modules of what is installed, in the order in which they are imported."""
    wanted: List[str] = []
    if facts["causal_conv1d"]["installed"]:
        wanted += ["causal_conv1d_cuda", "causal_conv1d"]
    if facts["mamba_ssm"]["installed"]:
        wanted += ["selective_scan_cuda", "mamba_ssm"]
    return wanted


def probe_code(wanted: List[str]) -> str:
    """Run in another process, where ``tell`` prints a stage's facts: imports them, and runs a tiny case where there is a GPU."""
    return _PROBE.replace("WANTED", repr(tuple(wanted)))


def take(facts: Dict[str, Any], result: Dict[str, Any]) -> None:
    """Adds what the other process told."""
    facts["probed"] = True
    facts["errors"].update(result["errors"])
    facts["imported"] = result["imported"]
    for key in ("conv_right", "scan_right"):
        if key in result:
            facts[key] = result[key]
    facts["working"] = not facts["errors"] and facts["mamba_ssm"]["installed"]


def _package(module: str, name: str) -> Dict[str, Any]:
    version = distributions.version(name)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        spec = None
    location = os.path.dirname(spec.origin) if spec and spec.origin else None
    facts: Dict[str, Any] = {"installed": bool(version or location), "version": version, "location": location}
    if location and module == "mamba_ssm":
        facts["opt_in"] = _opt_in(location)
    return facts


def _opt_in(location: str) -> bool:
    """Whether this is git main after the CUDA build became opt-in: same version string, told apart by the file."""
    try:
        with open(os.path.join(location, "ops", "selective_scan_interface.py"), encoding="utf-8") as file:
            return "MAMBA_KEEP_CUDA_BUILD" in file.read()
    except OSError:
        return False


def _libraries(name: str) -> List[str]:
    return [path for path in distributions.files(name) if path.endswith((".so", ".pyd"))]

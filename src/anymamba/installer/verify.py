"""Does an installed official package import and compute rightly: python -m anymamba.installer.verify PACKAGE ...

Meant for a fresh process. On a GPU, forward and backward in float32 are compared with the float64 reference; without one, only
the import is tried, which also proves that the extension fits torch's ABI, and that is said.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from typing import Any

from anymamba.installer.releases import EXTENSIONS, MODULES
from anymamba.language import _

# greatest error of float32 against float64, relative to the greatest value; rounding gives about 1e-6, a wrong kernel 0.1 and more
TOLERANCE = 1e-3

COMPUTED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "causal-conv1d": ("causal_conv1d", "causal_conv1d_fn", {"dim": 64, "layout": "length"}),
    "mamba-ssm": ("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn", {"dim": 32, "length": 45, "layout": "length"}),
}
"""package -> module, op, sizes of its inputs: the extension that each package brings."""


def verify(packages: list[str]) -> dict[str, Any]:
    """{"ok", "gpu", "checks": [{"name", "ok", "text"}]}."""
    import torch

    gpu = torch.cuda.is_available()
    checks: list[dict[str, Any]] = []
    for package in packages:
        for module in (EXTENSIONS[package], MODULES[package]):
            checks.append(_import(module, gpu))
        if gpu and all(item["ok"] for item in checks):
            checks.append(_compute(package))
    return {"ok": all(item["ok"] for item in checks), "gpu": gpu, "checks": checks}


def _import(name: str, gpu: bool) -> dict[str, Any]:
    try:
        importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - whatever an extension raises is the answer
        text = f"{type(error).__name__}: {str(error)[:400]}"
        # triton's decorators ask for a GPU at import; that is no fault of what was built
        return {"name": name, "ok": not gpu and "active drivers" in text, "text": text}
    return {"name": name, "ok": True, "text": _("imports, so it fits torch's ABI")}


def _compute(package: str) -> dict[str, Any]:
    try:
        error = _worst(package)
    except Exception as failure:  # noqa: BLE001 - a kernel that does not launch is the answer
        return {"name": package, "ok": False, "text": f"{type(failure).__name__}: {str(failure)[:400]}"}
    text = _("forward and backward differ from the reference by {error:.1e} (limit {limit:.0e})")
    return {"name": package, "ok": error <= TOLERANCE, "text": text.format(error=error, limit=TOLERANCE)}


def _worst(package: str, device: str = "cuda") -> float:
    """The greatest relative error of the outputs and of every gradient of the package's op; NaN counts as infinite."""
    import torch

    import anymamba.ops  # noqa: F401 - it registers the specs
    from anymamba.backends.call import Call
    from anymamba.backends.opspec import SPECS
    from anymamba.backends.probes import largest_error

    module, op, sizes = COMPUTED[package]
    official = getattr(importlib.import_module(module), op)
    call = Call(op, torch.device(device), torch.float32, grad=True)
    error, _ = largest_error(official, call, SPECS[op].build(**sizes))
    return error if error == error else float("inf")


def lines(result: dict[str, Any]) -> list[str]:
    """For a person."""
    said = ["{} {}: {}".format("✓" if item["ok"] else "✗", item["name"], item["text"]) for item in result["checks"]]
    if not result["gpu"]:
        said.append(_("no GPU is visible: only import and ABI were checked, not the results"))
    return said


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="+", choices=sorted(MODULES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    result = verify(arguments.packages)
    print(json.dumps(result, ensure_ascii=False) if arguments.json else "\n".join(lines(result)))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())

"""What stands behind the names in this process, what was served by whom, and what transformers can reach."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Any

from anymamba.dropin import finder, site_file
from anymamba.language import _


def status() -> dict[str, Any]:
    """See ``anymamba.dropin.status``. Imports neither torch nor the packages: only what was imported has counts."""
    return {
        "active": finder.active(),
        "enabled": site_file.status(),
        "packages": {name: package(name) for name in finder.NAMES},
        **_counts(),
        "transformers": transformers_reach(),
    }


def package(name: str) -> dict[str, Any]:
    """state: "anymamba", "real", "broken" (ours serves in its place), "absent"; imported; version; file; reason."""
    module = sys.modules.get(name)
    real = finder.real_spec(name)
    facts: dict[str, Any] = {"imported": module is not None, "version": None, "file": None, "reason": ""}
    if name in finder.broken:
        return {**facts, "state": "broken", "file": real and real.origin, "reason": finder.broken[name]}
    if module is not None:
        ours = bool(getattr(module, "__anymamba__", False))
        version, file = getattr(module, "__version__", None), getattr(module, "__file__", None)
        return {**facts, "state": "anymamba" if ours else "real", "version": version, "file": file}
    if real is not None and name not in finder.overridden():
        reason = _("installed; it wins as long as it imports")
        return {**facts, "state": "real", "version": _version(name), "file": real.origin, "reason": reason}
    if finder.active():
        reason = _("overrides the installed one") if real else _("nothing else is installed")
        return {**facts, "state": "anymamba", "file": finder.spec_of(name).origin, "reason": reason}
    return {**facts, "state": "absent", "reason": _("the drop-in is not active")}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return None


def _counts() -> dict[str, Any]:
    counting = sys.modules.get("anymamba.dropin.counting")
    if counting is None:
        return {"calls": {}, "served": {}, "fell_back": []}
    served: dict[str, dict[str, int]] = {}
    for (op, backend), count in sorted(counting.served.items()):
        served.setdefault(op, {})[backend] = count
    fell_back = [
        {"op": op, "backend": backend, "reason": reason, "count": count}
        for (op, backend, reason), count in sorted(counting.fell_back.items())
    ]
    return {"calls": dict(sorted(counting.called.items())), "served": served, "fell_back": fell_back}


def transformers_reach(version: str | None = None) -> dict[str, Any]:
    """Which gate that version of transformers (None: the installed one) has, and so what it reaches on this machine."""
    if version is None:
        version = _version("transformers")
        if version is None:
            return {"version": None, "reached": False, "how": _("transformers is not installed")}
    release = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if release >= (5, 15):
        how = _(
            "by import name, on every device: mamba, mamba2, falcon_mamba, jamba, bamba, zamba, zamba2, nemotron_h, "
            "falcon_h1, granitemoehybrid, and the convolution of lfm2, qwen3_next, kimi_linear and others"
        )
        return {"version": version, "reached": True, "how": how}
    if release < (5, 0):
        how = _(
            "not: 4.x asks for the metadata of an installed distribution, and the drop-in installs no fake one; "
            "upgrade to 5.15 or newer. `from mamba_ssm import ...` in your own code is served"
        )
        return {"version": version, "reached": False, "how": how}
    if not _cuda():
        how = _(
            "not on this machine: before 5.15 transformers asks for CUDA before it looks for mamba_ssm; upgrade to "
            "5.15 or newer. `from mamba_ssm import ...` in your own code is served"
        )
        return {"version": version, "reached": False, "how": how}
    how = _(
        "by version of the imported package, on CUDA tensors only; of falcon_mamba only the convolution, its scan "
        "only through the `kernels` package"
    )
    return {"version": version, "reached": True, "how": how}


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()

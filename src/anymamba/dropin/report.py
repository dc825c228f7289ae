"""What stands behind the names in this process, what was served by whom, and what transformers can reach."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Any

from anymamba.dropin import finder, site_file
from anymamba.language import say


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
    found: dict[str, Any] = {"imported": module is not None, "version": None, "file": None, "reason": ""}
    if name in finder.broken:
        return {**found, "state": "broken", "file": real and real.origin, "reason": finder.broken[name]}
    if module is not None:
        ours = bool(getattr(module, "__anymamba__", False))
        version, file = getattr(module, "__version__", None), getattr(module, "__file__", None)
        return {**found, "state": "anymamba" if ours else "real", "version": version, "file": file}
    if real is not None and name not in finder.overridden():
        reason = say("installed; it wins as long as it imports", "已安装；只要能导入就优先使用")
        return {**found, "state": "real", "version": _version(name), "file": real.origin, "reason": reason}
    if finder.active():
        reason = say("overrides the installed one", "覆盖已安装的包") if real else say("nothing else is installed", "没有安装其他同名包")
        return {**found, "state": "anymamba", "file": finder.spec_of(name).origin, "reason": reason}
    return {**found, "state": "absent", "reason": say("the drop-in is not active", "替身模块未启用")}


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
            return {"version": None, "reached": False, "how": say("transformers is not installed", "未安装 transformers")}
    release = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if release >= (5, 15):
        how = say(
            "by import name, on every device: mamba, mamba2, falcon_mamba, jamba, bamba, zamba, zamba2, nemotron_h, falcon_h1, "
            "granitemoehybrid, and the convolution of lfm2, qwen3_next, kimi_linear and others",
            "按导入名查找，适用于所有设备：mamba、mamba2、falcon_mamba、jamba、bamba、zamba、zamba2、nemotron_h、falcon_h1、"
            "granitemoehybrid，以及 lfm2、qwen3_next、kimi_linear 等的卷积",
        )
        return {"version": version, "reached": True, "how": how}
    if release < (5, 0):
        how = say(
            "not: 4.x asks for the metadata of an installed distribution, and the drop-in installs no fake one; upgrade to 5.15 or newer. "
            "`from mamba_ssm import ...` in your own code is served",
            "不可用：4.x 要求存在已安装发行包的元数据，而替身模块不会安装假的发行包；请升级到 5.15 或更新版本。"
            "你自己代码中的 `from mamba_ssm import ...` 不受影响",
        )
        return {"version": version, "reached": False, "how": how}
    if not _cuda():
        how = say(
            "not on this machine: before 5.15 transformers asks for CUDA before it looks for mamba_ssm; upgrade to 5.15 or newer. "
            "`from mamba_ssm import ...` in your own code is served",
            "本机不可用：5.15 之前的 transformers 只在有 CUDA 时才查找 mamba_ssm；请升级到 5.15 或更新版本。"
            "你自己代码中的 `from mamba_ssm import ...` 不受影响",
        )
        return {"version": version, "reached": False, "how": how}
    how = say(
        "by version of the imported package, on CUDA tensors only; of falcon_mamba only the convolution, its scan only through the "
        "`kernels` package",
        "按所导入包的版本判断，仅限 CUDA 张量；falcon_mamba 只有卷积可达，其扫描只能通过 `kernels` 包",
    )
    return {"version": version, "reached": True, "how": how}


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()

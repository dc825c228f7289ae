"""WSL without a usable driver."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    CERTAIN,
    NECESSARY,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
    match_signatures,
)


def _log(log: Log) -> Optional[Match]:
    if log.facts.get("system") != "wsl" and not log.has(r"\bWSL\b|GPU access blocked by the operating system"):
        return None
    return match_signatures(
        log,
        (
            Signature(r"GPU access blocked by the operating system", bare=True),
            Signature(
                r"(?:NVIDIA-SMI has failed|Failed to initialize NVML|nvidia-smi: (?:command )?not found"
                r"|nvidia-smi[^\n]*: (?:未找到命令|not found))[^\n]*"
            ),
            Signature(r"Found no NVIDIA driver on your system"),
            Signature(r"libcuda\.so\.1: cannot open shared object file"),
            Signature(r"nvidia-container-cli: (?:initialization error|requirement error)[^\n]*"),
            Signature(r"No CUDA GPUs are available|no CUDA-capable device is detected"),
        ),
    )


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    if facts["system"]["kind"] == "wsl" and facts["gpu"]["driver_error"]:
        return Match((), CERTAIN, None, (facts["gpu"]["driver_error"],))
    return None


RULE = Rule(
    code="AM071",
    cause="wsl-driver-missing",
    order=120,
    title=Text(
        "WSL does not see the GPU: the Windows driver is missing, too old or hidden",
        "WSL 看不到显卡：Windows 驱动缺失、过旧或被遮挡",
    ),
    why=Text(
        "In WSL the driver comes from Windows and appears in /usr/lib/wsl/lib. A Linux driver installed inside WSL"
        " hides it. The GPU is not visible in WSL 1.",
        "在 WSL 中，驱动来自 Windows，位于 /usr/lib/wsl/lib。在 WSL 内安装 Linux 驱动会把它遮挡。WSL 1 看不到显卡。",
    ),
    needed=NECESSARY,
    log=_log,
    machine=_machine,
    remedies=(
        Remedy(
            Text(
                "In Windows: update the NVIDIA driver and WSL, then restart WSL.",
                "在 Windows 中：更新 NVIDIA 驱动与 WSL，然后重启 WSL。",
            ),
            ("wsl.exe --update", "wsl.exe --shutdown"),
        ),
        Remedy(
            Text("In WSL: remove any Linux driver, and check.", "在 WSL 中：移除 Linux 驱动并检查。"),
            (
                "sudo apt-get remove --purge '^nvidia-driver-.*' '^libnvidia-compute-.*'",
                "ls /usr/lib/wsl/lib/libcuda.so.1 && nvidia-smi",
            ),
            systems=("wsl", "linux"),
        ),
    ),
    links=("https://github.com/microsoft/WSL/issues/8587",),
)

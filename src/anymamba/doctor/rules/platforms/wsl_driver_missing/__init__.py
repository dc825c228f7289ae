"""WSL without a usable driver."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, Match, Rule, Signature, match_signatures


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


RULE = Rule(code="AM071", cause="wsl-driver-missing", order=120, log=_log, machine=_machine)

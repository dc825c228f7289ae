"""PyPI has triton for Linux alone."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    CERTAIN,
    LIKELY,
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
    match_signatures,
)


def _log(log: Log) -> Optional[Match]:
    none = match_signatures(
        log,
        (
            Signature(r"(?:ERROR: )?No matching distribution found for triton", bare=True),
            Signature(r"Could not find a version that satisfies the requirement triton", bare=True),
            Signature(r"triton\S* has no wheels with a matching (?:platform|Python) tag"),
        ),
    )
    windows = log.facts.get("system") in ("windows", "macos")
    if none and (windows or log.has(r"from versions: none")):
        return none._replace(confidence=none.confidence if windows else LIKELY)
    missing = match_signatures(
        log, (Signature(r"(?:ModuleNotFoundError|ImportError): No module named '?triton(?:\.\w+)*'?"),)
    )
    if missing and (windows or match_signatures(log, (Signature(r"mamba_ssm[\\/]ops[\\/]triton", own=True),))):
        return missing
    return None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    if (
        facts["system"]["kind"] == "windows"
        and facts["packages"]["mamba_ssm"].get("installed")
        and not facts["triton"].get("installed")
    ):
        return Match((), CERTAIN, None, ("triton: not installed",))
    return None


RULE = Rule(
    code="AM011",
    cause="triton-missing-on-windows",
    order=52,
    title=Text("triton is missing: PyPI has it for Linux only", "缺少 triton：PyPI 上只有 Linux 版"),
    why=Text(
        "mamba-ssm imports triton without condition. Its wheels on PyPI are for Linux; Windows has the separate"
        " package triton-windows,"
        " macOS has none. mamba-ssm 2.2.4 does not even list triton, so there the import is the first thing to fail.",
        "mamba-ssm 会无条件导入 triton。PyPI 上的 triton 只有 Linux 版；Windows 有单独的 triton-windows，macOS 没有。"
        "mamba-ssm 2.2.4 的依赖里甚至没有列出 triton，因此导入时首先在这里失败。",
    ),
    needed=OPTIONAL,
    log=_log,
    machine=_machine,
    remedies=(
        Remedy(
            Text(
                "Windows: install triton-windows, then the packages without their dependencies.",
                "Windows：安装 triton-windows，再不带依赖地安装这两个包。",
            ),
            ("pip install triton-windows", "pip install --no-deps --no-build-isolation {package}"),
            systems=("windows",),
        ),
        Remedy(
            Text(
                "Linux: install triton (it normally comes with a CUDA torch).",
                "Linux：安装 triton（通常随 CUDA 版 torch 一起安装）。",
            ),
            ("pip install triton",),
            systems=("linux", "wsl"),
        ),
        advice.WSL,
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/state-spaces/mamba/issues/392", "https://github.com/state-spaces/mamba/pull/692"),
)

"""The host compiler is newer than nvcc accepts."""

from __future__ import annotations

from typing import Any, Dict, Optional

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
    match = match_signatures(
        log,
        (
            Signature(r"unsupported GNU version! gcc versions later than \d+ are not supported", bare=True),
            Signature(r"current installed version of [^\n]{1,120}? ?\(?[\d.]*\)? is greater than the maximum required version", bare=True),
            Signature(r"greater than the maximum required version by CUDA", bare=True),
            Signature(r"unsupported clang version! clang version must be less than \d+"),
            Signature(r"std_function\.h:\d+:\d+: error: parameter packs not expanded with"),
            Signature(
                r"error: identifier \"_Float(?:32|64|128)x?\" is undefined|identifier \"__builtin_ia32_\w+\" is"
                r" undefined",
                confidence=LIKELY,
            ),
            Signature(
                r"bits/\S+\(\d+\): error: (?:identifier \"__is_(?:pointer|array|member_pointer|volatile"
                r"|convertible)|attribute \"__malloc__\")[^\n]*",
                confidence=LIKELY,
            ),
        ),
    )
    if not match:
        return None
    limit = log.search(r"gcc versions later than (\d+) are not supported") or log.search(
        r"maximum required version by CUDA [\d.]+ \(<?(\d+)"
    )
    if not limit:
        return match
    newest = int(limit.group(1)) - (0 if "later than" in limit.group(0) else 1)
    return match._replace(values={"gcc": str(newest)})


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    nvcc, gcc = facts["cuda"]["used"], facts["compiler"].get("gcc")
    if not nvcc or not gcc or facts["packages"]["working"] or not facts["gpu"]["nvidia"]:
        return None
    limit = facts["compiler"]["limit"]
    if limit and gcc["major"] >= limit:
        return Match(
            (), CERTAIN, {"gcc": str(limit - 1)}, ("gcc {}".format(gcc["version"]), "nvcc {}".format(nvcc["version"]))
        )
    return None


RULE = Rule(
    code="AM024",
    cause="gcc-too-new-for-cuda",
    order=320,
    title=Text(
        "gcc is newer than this nvcc accepts; gcc {gcc} works", "gcc 版本高于该 nvcc 所支持的上限；可用 gcc {gcc}"
    ),
    why=Text(
        "Each nvcc accepts host compilers up to a limit: CUDA 11.4 to 11.7 gcc 11, 12.0 to 12.2 gcc 12, 12.3 to"
        " 12.7 gcc 13, 12.8 and 12.9 gcc 14, 13.0 gcc 15.",
        "每个 nvcc 支持的主机编译器都有上限：CUDA 11.4 至 11.7 为 gcc 11，12.0 至 12.2 为 gcc 12，12.3 至 12.7 为"
        " gcc 13，12.8 与 12.9 为 gcc 14，13.0 为 gcc 15。",
    ),
    needed=OPTIONAL,
    log=_log,
    machine=_machine,
    remedies=(
        Remedy(
            Text(
                "Install an older compiler beside yours and build with it.",
                "在现有编译器之外再装一个旧版本，并用它构建。",
            ),
            (
                "sudo apt-get install gcc-{gcc} g++-{gcc}",
                "CC=gcc-{gcc} CXX=g++-{gcc} NVCC_PREPEND_FLAGS='-ccbin g++-{gcc}' pip install --no-build-isolation"
                " {package}",
            ),
            systems=("linux", "wsl"),
        ),
        Remedy(
            Text("In a conda environment.", "在 conda 环境中。"),
            (
                "conda install -y -c conda-forge gxx_linux-64={gcc}",
                "pip install --no-build-isolation {package}",
            ),
            systems=("linux", "wsl"),
            managers=("conda",),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/issues/745",),
)

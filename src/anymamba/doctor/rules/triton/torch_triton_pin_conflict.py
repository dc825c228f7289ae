"""mamba-ssm 2.3.2.post1 wants triton 3.5, torch up to 2.8 pins an older one."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    CERTAIN,
    LIKELY,
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Text,
)


def _log(log: Log) -> Optional[Match]:
    wants = log.search(
        r"mamba[-_]ssm\S* (?:2\.3\.2\S* )?depends on (?:and requires )?triton ?>= ?3\.5|mamba[-_]ssm==2\.3\.2\S*"
        r" depends on triton ?>= ?3\.5"
    )
    pins = log.search(r"torch(?: |==)2\.\d+\S* (?:depends on|requires) triton ?== ?\d")
    if wants and (
        pins
        or log.has(
            r"ResolutionImpossible|No solution found|version solving failed|conflicting dependencies|unsatisfiable"
        )
    ):
        return Match(tuple(found.start() for found in (wants, pins) if found), CERTAIN)
    if (
        pins
        and log.names_ours
        and log.has(r"mamba[-_]ssm[^\n]{0,80}triton ?>= ?3\.5|triton ?>= ?3\.5[^\n]{0,80}mamba[-_]ssm")
    ):
        return Match((pins.start(),), CERTAIN)
    # no error at all: the user's torch was replaced to satisfy the pin
    removed = log.search(
        r"(?:Successfully uninstalled|Found existing installation:|Uninstalling) torch[- ](2\.\d+)[^\n]*"
    )
    added = log.search(r"Successfully installed [^\n]*\btorch-(2\.\d+)[^\n]*")
    if removed and added and log.has(r"mamba[-_]ssm[-= ]+2\.3\.2") and removed.group(1) != added.group(1):
        return Match((removed.start(), added.start()), LIKELY)
    return None


RULE = Rule(
    code="AM010",
    cause="torch-triton-pin-conflict",
    order=50,
    title=Text(
        "mamba-ssm 2.3.2.post1 needs triton 3.5 or newer, and your torch pins an older triton",
        "mamba-ssm 2.3.2.post1 需要 triton 3.5 或更高版本，而你的 torch 固定了较旧的 triton",
    ),
    why=Text(
        "torch pins triton exactly (2.7.1: 3.3.1, 2.8.0: 3.4.0, 2.9.1: 3.5.1). With torch 2.8 or older the resolver"
        " either gives up or, worse,"
        " silently replaces torch by the newest one while the wheel of mamba-ssm was chosen for the old one:"
        " undefined symbols at import.",
        "torch 会精确固定 triton（2.7.1：3.3.1，2.8.0：3.4.0，2.9.1：3.5.1）。对 torch 2.8 及以前，解析器要么放弃，"
        "要么更糟：悄悄把 torch 换成最新版，"
        "而 mamba-ssm 的 wheel 是按旧版 torch 选的，导入时便报 undefined symbol。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        Remedy(
            Text(
                "torch 2.8 or older: use the last release without that pin.",
                "torch 2.8 及以前：使用没有该限制的最后一个版本。",
            ),
            ("pip install --no-build-isolation --no-cache-dir causal-conv1d=={conv2} mamba-ssm=={mamba2}",),
        ),
        Remedy(
            Text("In every case, forbid pip to change torch.", "无论如何，都禁止 pip 更换 torch。"),
            ("pip freeze | grep -i '^torch==' > keep.txt", "pip install -c keep.txt --no-build-isolation mamba-ssm=={mamba2}"),
            powershell=(
                "pip freeze | Select-String '^torch==' | ForEach-Object Line > keep.txt",
                "pip install -c keep.txt --no-build-isolation mamba-ssm=={mamba2}",
            ),
        ),
    ),
    explains=("abi-undefined-symbol", "libcudart-not-found"),
)

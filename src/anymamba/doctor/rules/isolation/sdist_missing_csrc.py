"""Source packages that have no sources."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice, situation
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    LIKELY,
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
    match_signatures,
)

_OLD_MAMBA, _OLD_CONV = (2, 2, 4), (1, 5, 0)


def _too_old(log: Log) -> bool:
    versions = log.facts["versions"]
    mamba, conv = versions.get("mamba-ssm"), versions.get("causal-conv1d")
    return bool(mamba and situation.short(mamba) <= _OLD_MAMBA or conv and situation.short(conv) <= _OLD_CONV)


def _log(log: Log) -> Optional[Match]:
    direct = match_signatures(
        log,
        (
            Signature(
                r"FileNotFoundError: \[(?:Errno|WinError) \d\] [^\n]*csrc[\\/]+(?:selective_scan|causal_conv1d)[^\n]*",
                own=True,
            ),
            Signature(r"No such file or directory: '[^'\n]*csrc[\\/]+[\w\\/]+\.(?:cpp|cu)'", own=True),
            Signature(r"ninja: error: '[^'\n]*csrc[^'\n]*', needed by '[^'\n]*', missing and no known rule to make it"),
            Signature(
                r"(?:c1xx|c1xx\.dll|cc1plus|gcc|g\+\+|nvcc|clang)[^\n]*(?:fatal error|fatal"
                r"|error)[^\n]*csrc[\\/][^\n]*(?:No such file|没有那个文件|无法打开)"
            ),
            Signature(r"(?:fatal error C1083|Cannot open source file|无法打开源文件)[^\n]*csrc[\\/][^\n]*"),
            Signature(r"csrc[\\/][\w\\/.]+: (?:No such file or directory|没有那个文件或目录)"),
            Signature(
                r"fatal error: (?:csrc[\\/]\S+|selective_scan\.h|causal_conv1d\.h|selective_scan_common\.h"
                r"|static_switch\.h): (?:No such file|没有那个文件)"
            ),
            Signature(r"c1xx: fatal error C1083: [^\n]*(?:selective_scan|causal_conv1d)[^\n]*\.cpp"),
        ),
    )
    if direct:
        return direct
    source = log.search(r"Precompiled wheel not found\. Building from source")
    from_git = log.has(
        r"git\+https?://|git clone|Cloning https|^Processing |setup\.py (?:install|develop)|pip install (?:-\S+"
        r" )*(?:-e )?\.(?:\s|$)"
    )
    if source and _too_old(log) and not from_git and log.concern(source.start(), source.end()) != "other":
        return Match((source.start(),), LIKELY)
    return None


RULE = Rule(
    code="AM022",
    cause="sdist-missing-csrc",
    order=300,
    title=Text(
        "this release's source package has no C++/CUDA sources, so it cannot be compiled",
        "该版本的源码包里没有 C++/CUDA 源文件，无法编译",
    ),
    why=Text(
        "The source packages on PyPI of mamba-ssm up to 2.2.4 and causal-conv1d up to 1.5.0.post8 were made without"
        " the csrc folder. When no prebuilt wheel fits"
        " (or a build is forced), they fail for certain.",
        "PyPI 上 mamba-ssm 2.2.4 及以前、causal-conv1d 1.5.0.post8 及以前的源码包缺少 csrc 目录。没有合适的预编译"
        " wheel（或强制编译）时必然失败。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        Remedy(
            Text(
                "Use a release that has its sources: mamba-ssm 2.2.5 or newer, causal-conv1d 1.5.2 or newer.",
                "使用带有源码的版本：mamba-ssm 2.2.5 及以后，causal-conv1d 1.5.2 及以后。",
            ),
            ("pip install --no-build-isolation --no-cache-dir {conv_built} {mamba_built}",),
        ),
        advice.FROM_GIT,
    ),
    explains=("no-prebuilt-wheel", "windows-no-official-support", "log-truncated", "rocm-skip-selective-scan"),
    links=("https://github.com/state-spaces/mamba/issues/599", "https://github.com/Dao-AILab/causal-conv1d/pull/65"),
)

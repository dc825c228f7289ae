"""Source packages that have no sources."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import situation
from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Rule, Signature, match_signatures

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
    log=_log,
    explains=("no-prebuilt-wheel", "windows-no-official-support", "log-truncated", "rocm-skip-selective-scan"),
)

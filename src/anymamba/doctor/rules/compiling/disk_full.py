"""No space left while building or downloading."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    NECESSARY,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
    match_signatures,
)


def _log(log: Log) -> Optional[Match]:
    return match_signatures(
        log,
        (
            Signature(
                r"\[Errno 28\] No space left on device|\[WinError 112\]|No space left on device|设备上没有空间"
                r"|磁盘空间不足|\[Errno 122\] Disk quota exceeded|超出磁盘限额"
            ),
        ),
    )


RULE = Rule(
    code="AM080",
    cause="disk-full",
    order=5,
    title=Text("the disk is full", "磁盘空间已满"),
    why=Text(
        "An isolated build downloads several GB of torch into the temporary folder, which is often a small partition.",
        "隔离构建会把数 GB 的 torch 下载到临时目录，而它常位于较小的分区。",
    ),
    needed=NECESSARY,
    log=_log,
    remedies=(
        Remedy(
            Text(
                "Use a folder with space for temporary files, and no second torch.",
                "为临时文件换一个有空间的目录，并避免下载第二份 torch。",
            ),
            (
                "df -h . /tmp",
                "mkdir -p ~/tmp && TMPDIR=~/tmp pip install --no-build-isolation --no-cache-dir {package}",
            ),
            powershell=(
                "Get-PSDrive",
                'mkdir D:\\t; $env:TMP="D:\\t"; $env:TEMP="D:\\t"; pip install --no-build-isolation --no-cache-dir'
                " {package}",
            ),
        ),
        Remedy(Text("Empty pip's cache.", "清空 pip 缓存。"), ("pip cache purge",)),
    ),
)

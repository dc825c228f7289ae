"""Triton's autotuner called from several threads."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Remedy, Rule, Text


def _log(log: Log) -> Optional[Match]:
    found = log.search(r"TypeError: 'NoneType' object is not a mapping|full_nargs = \{\*\*self\.nargs|pre_hook\(\{\*\*self\.nargs")
    if not found or not (log.has(r"autotuner|self\.nargs|[Tt]riton") or log.names_ours):
        return None
    threads = log.has(r"replica \d+ on device|DataParallel|parallel_apply|[Mm]ulti(?:ple)?[- ]?GPUs?|多卡|多GPU")
    return Match((found.start(),), CERTAIN if threads else LIKELY)


RULE = Rule(
    code="AM104",
    cause="triton-autotuner-threads",
    order=612,
    title=Text(
        "Triton's autotuner was called from several threads at once, as nn.DataParallel does",
        "Triton 的自动调优器被多个线程同时调用，nn.DataParallel 正是如此",
    ),
    why=Text(
        "Older Triton keeps the arguments of a launch in one place for all threads. nn.DataParallel runs one "
        'thread for each GPU, and one of them clears what another needs: "\'NoneType\' object is not a mapping".',
        "旧版 Triton 把启动参数存放在所有线程共用的一处。nn.DataParallel 为每块显卡开一个线程，其中一个清除了另一"
        "个所需的内容，于是报“'NoneType' object is not a mapping”。",
    ),
    needed=Text(
        "Yes, in the way the program is started.",
        "需要：改变程序的启动方式。",
    ),
    log=_log,
    remedies=(
        Remedy(
            Text(
                "Use one process for each GPU (DistributedDataParallel) instead of nn.DataParallel, or a single "
                "GPU.",
                "用每卡一个进程（DistributedDataParallel）代替 nn.DataParallel，或只用一块显卡。",
            ),
            (
                "torchrun --nproc-per-node gpu {program}",
                "export CUDA_VISIBLE_DEVICES=0",
            ),
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/state-spaces/mamba/issues/84", "https://github.com/triton-lang/triton/issues/3095",),
)

"""Offsets of the official kernels overflow at large sizes."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, POSSIBLE, Match, Remedy, Rule, Signature, Text
from anymamba.doctor.tracebacks import near

_KERNELS = (
    r"mamba_ssm|ssd_(?:combined|chunk|state|bmm)|selective_scan|causal_conv1d|mamba_chunk|mamba_split|mamba_inner|_chunk_\w+_kernel"
)


def _log(log: Log) -> Optional[Match]:
    for found in log.finditer(Signature(r"an illegal memory access was encountered|CUDA error: misaligned address")):
        if near(log, found.start(), _KERNELS, before=60, after=2):
            large = log.has(r"\b(?:\d{6,}|[2-9]\d{4,}|\d{2,}[kK] (?:tokens|context)|512k|long(?:er)? (?:sequence|context)|large batch)")
            return Match((found.start(),), LIKELY if large else POSSIBLE)
        if log.names_ours:
            return Match((found.start(),), POSSIBLE)
    return None


RULE = Rule(
    code="AM103",
    cause="illegal-memory-access",
    order=630,
    title=Text(
        "an official kernel read outside its memory: batch times length is too large for its 32-bit offsets",
        "官方内核访问越界：批次与长度的乘积超出了其 32 位偏移量",
    ),
    why=Text(
        "Several kernels of mamba-ssm compute offsets in 32 bits. Beyond about 2 billion elements (long "
        "sequences, large batches, many channels) they read elsewhere: an illegal memory access, or silently "
        "wrong numbers. A kernel launched before may also be the culprit, because the GPU reports late.",
        "mamba-ssm 的若干内核用 32 位计算偏移量。元素数超过约 20 亿（长序列、大批次、多通道）时会访问错误的地址："
        "报 illegal memory access，或悄悄算错。由于 GPU 报错滞后，也可能是更早启动的内核。",
    ),
    needed=Text(
        "Yes, or use anymamba, whose kernels have 64-bit offsets.",
        "需要；或使用偏移量为 64 位的 anymamba。",
    ),
    log=_log,
    remedies=(
        advice.USE_ANYMAMBA,
        Remedy(
            Text(
                "Or smaller batches; see first which kernel it is.",
                "或减小批次；先确认是哪个内核。",
            ),
            (
                "export CUDA_LAUNCH_BLOCKING=1",
            ),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/issues/686", "https://github.com/state-spaces/mamba/issues/732",),
)

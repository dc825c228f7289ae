"""More blocks than a launch may have."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Remedy, Rule, Signature, Text
from anymamba.doctor.tracebacks import near


def _log(log: Log) -> Optional[Match]:
    for found in log.finditer(Signature(r"CUDA error: invalid configuration argument|Triton Error \[CUDA\]: invalid argument")):
        if near(log, found.start(), r"selective_scan|causal_conv1d|mamba_ssm|ssd_\w+|layer_norm_fn", before=40, after=2):
            return Match((found.start(),), LIKELY)
    return None


RULE = Rule(
    code="AM115",
    cause="launch-grid-too-large",
    order=631,
    title=Text(
        "a size is larger than the official kernel can launch (65535 in batch or channels)",
        "某个维度超过官方内核可启动的上限（批次或通道 65535）",
    ),
    why=Text(
        "selective_scan and causal_conv1d put batch and channels into grid dimensions that CUDA limits to 65535 "
        "blocks; patches or pixels folded into the batch exceed that.",
        "selective_scan 与 causal_conv1d 把批次和通道放在 CUDA 限制为 65535 的网格维度上；把图块或像素并入批次时"
        "容易超过。",
    ),
    needed=Text(
        "Yes: pieces of at most 65535.",
        "需要：每块不超过 65535。",
    ),
    log=_log,
    remedies=(
        Remedy(
            Text(
                "Split the batch in the program, for example torch.cat([mixer(part) for part in x.split(32768)]).",
                "在程序中拆分批次，例如 torch.cat([mixer(part) for part in x.split(32768)])。",
            ),
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/state-spaces/mamba/issues/823", "https://github.com/state-spaces/mamba/issues/505",),
)

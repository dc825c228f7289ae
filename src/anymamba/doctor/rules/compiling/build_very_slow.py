"""Nothing failed: it compiles for half an hour."""

from __future__ import annotations

import re
from typing import Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    LIKELY,
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Text,
)


def _log(log: Log) -> Optional[Match]:
    building = list(re.finditer(r"^Building wheels? for (?:mamba[-_]ssm|causal[-_]conv1d)[^\n]*", log.text, re.M))
    if not building:
        return None
    last = building[-1]
    rest = log.text[last.end() :]
    failed = re.search(
        r"\berror\b|Error:|失败|done|Successfully",
        rest.replace("KeyboardInterrupt", "").replace("ERROR: Operation cancelled by user", ""),
    )
    waiting = re.fullmatch(r"[^\n]*\.\.\. ?(?:[-\\|/] ?)*\s*", log.text[last.start() :])
    told = re.search(
        r"still running|\d+ ?(?:hours?|hrs?|h)\b|\d{2,} ?min|stuck|hang|卡住|卡在|一直|小时|KeyboardInterrupt"
        r"|Operation cancelled by user|\^C",
        rest,
    )
    # an earlier attempt that failed, or a failure told in words, is not a long wait
    failed_before = re.search(
        r"subprocess-exited-with-error|did not run successfully|Failed (?:to build|building)|Could not build|\bfail(?:s|ed)\b|失败",
        log.text,
    )
    if (waiting or told) and not failed and not failed_before:
        return Match((last.start(),), LIKELY)
    return None


RULE = Rule(
    code="AM031",
    cause="build-very-slow",
    order=380,
    title=Text("nothing failed: the compilation takes very long", "没有出错：只是编译非常耗时"),
    why=Text(
        "No wheel fitted, so up to 9 CUDA files are compiled for 6 to 13 GPU architectures each: 15 to 35 minutes"
        " on 48 cores, hours on a small machine. pip shows nothing meanwhile.",
        "没有合适的 wheel，因此要为 6 到 13 种 GPU 架构编译最多 9 个 CUDA 文件：48 核上需 15 到 35 分钟，小机器上要"
        "几小时，期间 pip 不显示任何内容。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        Remedy(Text("See what it does.", "查看进度。"), ("pip install -v --no-build-isolation {package}",)),
        advice.WHEEL_BY_URL,
        Remedy(
            Text(
                "Or keep only your own GPU's -gencode line in setup.py (TORCH_CUDA_ARCH_LIST is ignored).",
                "或在 setup.py 中只保留你的显卡对应的 -gencode 行（TORCH_CUDA_ARCH_LIST 不起作用）。",
            )
        ),
    ),
    links=("https://github.com/state-spaces/mamba/issues/983", "https://github.com/state-spaces/mamba/issues/999"),
)

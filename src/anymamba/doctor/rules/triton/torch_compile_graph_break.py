"""torch.compile over the official autograd functions."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Remedy, Rule, Text
from anymamba.doctor.tracebacks import near


def _log(log: Log) -> Optional[Match]:
    found = log.search(
        r"autograd\.Function with body that accepts non-Tensors|torch\._dynamo\.exc\.Unsupported"
        r"|Unsupported: [^\n]*(?:autograd\.Function|pybind|skipfiles)"
        r"|Attempted to call function marked as skipped[^\n]*"
    )
    if not found or not log.names_ours:
        return None
    ours = r"mamba_ssm|causal_conv1d|selective_scan|ssd_combined"
    return Match((found.start(),), LIKELY) if near(log, found.start(), ours, before=40, after=20) else None


RULE = Rule(
    code="AM114",
    cause="torch-compile-graph-break",
    order=640,
    title=Text(
        "torch.compile cannot trace through the official autograd functions",
        "torch.compile 无法追踪官方的 autograd 函数",
    ),
    why=Text(
        "mamba-ssm's fused functions pass tuples and other objects to autograd.Function, which torch.compile "
        "with fullgraph=True refuses.",
        "mamba-ssm 的融合函数向 autograd.Function 传递元组等对象，fullgraph=True 的 torch.compile 会拒绝。",
    ),
    needed=Text(
        "Only to compile; without torch.compile the model runs.",
        "只有需要编译时才要处理；不用 torch.compile 模型可以运行。",
    ),
    log=_log,
    remedies=(
        Remedy(
            Text(
                "Leave the mixer out of compilation: torch.compiler.disable on its forward, and no "
                "fullgraph=True.",
                "把 mixer 排除在编译之外：对其 forward 使用 torch.compiler.disable，且不要设置 fullgraph=True。",
            ),
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/state-spaces/mamba/issues/369",),
)

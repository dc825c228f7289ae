"""causal-conv1d is installed in a fitting version, and mamba-ssm still has None in place of its functions."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, ONLY_OFFICIAL, Match, Remedy, Rule, Text
from anymamba.doctor.rules.imports.causal_conv1d_missing import none_called
from anymamba.doctor.versions import unfit


def _log(log: Log) -> Optional[Match]:
    conv, mamba = log.installations.get("causal-conv1d"), log.installations.get("mamba-ssm")
    if conv is None or mamba and unfit(mamba.version, conv.version):
        return None
    found = log.search(
        r"'NoneType' object has no attribute 'causal_conv1d_\w+'|AssertionError: causal_conv1d_cuda is not available"
        r"|NotImplementedError: The fast path is not available"
    )
    offset = found.start() if found else min((none_called(log) or Match()).offsets, default=None)
    return Match((offset, conv.offset), LIKELY) if offset is not None else None


RULE = Rule(
    code="AM087",
    cause="causal-conv1d-import-swallowed",
    order=429,
    title=Text(
        "causal-conv1d is installed, but importing it failed when mamba-ssm was loaded, and mamba-ssm hides that error",
        "causal-conv1d 已安装，但 mamba-ssm 加载时导入它失败了，而 mamba-ssm 隐藏了该错误",
    ),
    why=Text(
        "mamba-ssm wraps the import of causal-conv1d in try/except ImportError and goes on with None. That catches an undefined symbol"
        " or a missing library as well, and a notebook that imported mamba_ssm before causal-conv1d was installed.",
        "mamba-ssm 用 try/except ImportError 包住对 causal-conv1d 的导入，失败后以 None 继续。undefined symbol、缺库都会被吞掉；"
        "在安装 causal-conv1d 之前就导入了 mamba_ssm 的 notebook 也是如此。",
    ),
    needed=ONLY_OFFICIAL,
    log=_log,
    remedies=(
        Remedy(
            Text(
                "See the hidden error. If this prints nothing, restart the notebook or the program: it works in a new process.",
                "查看被隐藏的错误。若没有任何输出，重启 notebook 或程序即可。",
            ),
            ('python -c "import torch, causal_conv1d_cuda, causal_conv1d.cpp_functions"',),
        ),
        advice.RIGHT_WHEEL,
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/state-spaces/mamba/issues/786", "https://github.com/state-spaces/mamba/issues/467"),
)

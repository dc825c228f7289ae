"""The optional half is not installed."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    LIKELY,
    ONLY_OFFICIAL,
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
            Signature(r"(?:ModuleNotFoundError|ImportError): No module named '?causal_conv1d'?(?![\w.])", own=True),
            Signature(r"'NoneType' object has no attribute 'causal_conv1d_\w+'", own=True),
            Signature(
                r"(?<!because\s`)(?<!because\s)(?:causal_conv1d|causal-conv1d)`? is (?:not installed|required)"
                r"|[Pp]lease install causal[-_]conv1d",
                own=True,
                confidence=LIKELY,
            ),
            Signature(r"'NoneType' object is not callable", confidence=LIKELY),
            Signature(r"NotImplementedError: The fast path is not available"),
        ),
    )


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    packages = facts["packages"]
    if packages["mamba_ssm"].get("installed") and not packages["causal_conv1d"].get("installed"):
        return Match((), LIKELY, None, ("mamba-ssm {}; causal-conv1d: -".format(packages["mamba_ssm"]["version"]),))
    return None


RULE = Rule(
    code="AM049",
    cause="causal-conv1d-missing",
    order=430,
    title=Text(
        "causal-conv1d is not installed, and the fused path of mamba-ssm needs it",
        "没有安装 causal-conv1d，而 mamba-ssm 的融合路径需要它",
    ),
    why=Text(
        "Since mamba-ssm 1.2.0 it is optional and no longer installed along; without it the fused kernels stop, up"
        " to 2.2.4 with \"'NoneType' object has no attribute\".",
        "自 mamba-ssm 1.2.0 起它是可选依赖，不再随之安装；缺少它时融合内核无法运行，2.2.4 及以前会报 \"'NoneType'"
        ' object has no attribute"。',
    ),
    needed=ONLY_OFFICIAL,
    log=_log,
    machine=_machine,
    remedies=(
        Remedy(
            Text(
                "Install it (mamba-ssm 2.2.5 and newer need 1.5.1 or newer).",
                "安装它（mamba-ssm 2.2.5 及以后需要 1.5.1 或更高版本）。",
            ),
            ('pip install --no-build-isolation "causal-conv1d>=1.5.1"',),
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/state-spaces/mamba/issues/467",),
)

"""The two packages do not fit each other."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    CERTAIN,
    CONFIDENCES,
    LIKELY,
    ONLY_OFFICIAL,
    Against,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
    match_signatures,
)
from anymamba.doctor.versions import unfit

# keywords of causal-conv1d's own functions in one release or another
_KEYWORDS = (
    r"(?:seq_idx|initial_states|return_final_states|final_states_out|activation|bias|cache_seqlens|conv_state_indices|conv_state)"
)


def _log(log: Log) -> Optional[Match]:
    mamba, conv = log.installations.get("mamba-ssm"), log.installations.get("causal-conv1d")
    listed = (mamba.offset, conv.offset) if mamba and conv and unfit(mamba.version, conv.version) else None
    match = match_signatures(
        log,
        (
            Signature(r"TypeError: causal_conv1d_(?:fwd|bwd|update)\(\): incompatible function arguments", own=True),
            Signature(
                r"cannot import name 'causal_conv1d_(?:fwd|bwd|update|varlen)\w*'(?: from '?causal_conv1d)?", own=True
            ),
            Signature(r"No module named '?causal_conv1d\.(?:cpp_functions|causal_conv1d_varlen)'?", own=True),
            Signature(r"causal_conv1d_(?:fn|update)\(\) got an unexpected keyword argument '" + _KEYWORDS + "'", own=True),
            Signature(r"causal_conv1d_(?:fwd|bwd)\(\) (?:takes|missing \d+ required)", own=True),
            Signature(r"module 'causal_conv1d_cuda' has no attribute", own=True),
        ),
    )
    if match:
        # without the two versions another library's function of the same name remains possible
        return match if listed else match._replace(confidence=max(match.confidence, LIKELY, key=CONFIDENCES.index))
    unavailable = log.search(
        r"AssertionError: causal_conv1d_cuda is not available\. Please install causal-conv1d"
        r"|'NoneType' object (?:is not callable|has no attribute 'causal_conv1d_\w+')"
    )
    if unavailable and listed:
        return Match((unavailable.start(), *listed), CERTAIN)
    return Match(listed, LIKELY) if listed and log.has(r"Error\b") and log.has(r"causal_conv1d\w*\W") else None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    mamba, conv = facts["packages"]["mamba_ssm"].get("version"), facts["packages"]["causal_conv1d"].get("version")
    if not mamba or not conv:
        return None
    if unfit(mamba, conv):
        return Match((), CERTAIN, None, ("mamba-ssm {}, causal-conv1d {}".format(mamba, conv),))
    return None


RULE = Rule(
    code="AM050",
    cause="causal-conv1d-version-skew",
    order=428,
    title=Text(
        "the installed versions of mamba-ssm and causal-conv1d do not fit each other",
        "所安装的 mamba-ssm 与 causal-conv1d 版本互不匹配",
    ),
    why=Text(
        "causal-conv1d 1.2.0 changed the arguments of its functions, and mamba-ssm 2.2.5 uses a module that"
        " causal-conv1d has since 1.5.1 only, although its README still says 1.4.0.",
        "causal-conv1d 1.2.0 改变了函数参数；mamba-ssm 2.2.5 起使用的模块只存在于 causal-conv1d 1.5.1 及以后，尽管"
        "其 README 仍写着 1.4.0。",
    ),
    needed=ONLY_OFFICIAL,
    log=_log,
    machine=_machine,
    remedies=(
        Remedy(
            Text(
                "Install the pair that fits this torch (mamba-ssm 1.0 and 1.1: causal-conv1d 1.1; 1.2.0 to 2.2.4: 1.2 to 1.5.0; 2.2.5"
                " and newer: 1.5.1 or newer).",
                "安装与当前 torch 匹配的一对版本（mamba-ssm 1.0 与 1.1：causal-conv1d 1.1；1.2.0 至 2.2.4：1.2 至 1.5.0；2.2.5 及以后："
                "1.5.1 或更高）。",
            ),
            (
                "pip uninstall -y mamba-ssm causal-conv1d",
                "pip install --no-build-isolation --no-cache-dir {packages}",
            ),
            systems=("linux", "wsl", "windows"),
        ),
        advice.WHEEL_BY_URL,
        advice.USE_ANYMAMBA,
    ),
    explains=("causal-conv1d-missing", "causal-conv1d-import-swallowed"),
    against=(Against(r"[\\/](?:vllm|sglang|fla|flash_linear_attention|fla_npu)[\\/][^\n]*\.py", removes=True, near=4),),
    links=("https://github.com/state-spaces/mamba/issues/257", "https://github.com/Dao-AILab/causal-conv1d/issues/68"),
)

"""The two packages do not fit each other."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, CONFIDENCES, LIKELY, Against, Match, Rule, Signature, match_signatures
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
    log=_log,
    machine=_machine,
    explains=("causal-conv1d-missing", "causal-conv1d-import-swallowed"),
    against=(Against(r"[\\/](?:vllm|sglang|fla|flash_linear_attention|fla_npu)[\\/][^\n]*\.py", removes=True, near=4),),
)

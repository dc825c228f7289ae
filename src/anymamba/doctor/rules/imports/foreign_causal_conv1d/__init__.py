"""Another library's function that is also called causal_conv1d."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Rule

_OWN = (
    r"seq_idx|initial_states|return_final_states|final_states_out|activation|bias|cache_seqlens|conv_state_indices|conv_state|x|weight"
)


def _log(log: Log) -> Optional[Match]:
    found = log.search(
        r"causal_conv1d(?:_fn|_update|_ref|_cuda)?\(\) (?:got an unexpected keyword argument '(?!(?:" + _OWN + r")')\w+'"
        r"|got multiple values|missing \d+ required|takes \d+ positional)"
    ) or log.search(
        r"[\\/](?:vllm|sglang|fla|flash_linear_attention|fla_npu)[\\/](?:[^\n]*\n){1,4}?[^\n]*TypeError: causal_conv1d\w*\(\)[^\n]*"
    )
    return Match((found.start(),), LIKELY) if found else None


RULE = Rule(code="AM088", cause="foreign-causal-conv1d", order=427, log=_log, explains=("causal-conv1d-version-skew",))

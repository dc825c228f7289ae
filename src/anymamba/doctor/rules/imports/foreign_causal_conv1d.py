"""Another library's function that is also called causal_conv1d."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Remedy, Rule, Text

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


RULE = Rule(
    code="AM088",
    cause="foreign-causal-conv1d",
    order=427,
    title=Text(
        "the program and the function called causal_conv1d come from different libraries or versions (fla, vLLM, SGLang, transformers)",
        "程序与名为 causal_conv1d 的函数来自不同的库或版本（fla、vLLM、SGLang、transformers）",
    ),
    why=Text(
        "flash-linear-attention, vLLM and SGLang have functions of their own called causal_conv1d, causal_conv1d_fn or"
        " causal_conv1d_update. The argument named here does not exist in any release of the package causal-conv1d, so its version is"
        " not the cause: the caller expects another version of that library.",
        "flash-linear-attention、vLLM 与 SGLang 都有自己的 causal_conv1d、causal_conv1d_fn 或 causal_conv1d_update 函数。日志中的"
        "参数在 causal-conv1d 包的任何版本中都不存在，因此与该包的版本无关：调用方需要的是那个库的另一个版本。",
    ),
    needed=Text("Yes: the program stops there.", "需要：程序会在此停止。"),
    log=_log,
    remedies=(
        Remedy(
            Text("See which file the function comes from.", "查看该函数来自哪个文件。"),
            ('python -c "import causal_conv1d as m; print(m.__version__, m.__file__)"', "pip show causal-conv1d flash-linear-attention"),
        ),
        Remedy(
            Text("Bring the calling libraries to versions of the same time.", "把相关的库升级到同一时期的版本。"),
            ("pip install -U flash-linear-attention transformers",),
        ),
    ),
    explains=("causal-conv1d-version-skew",),
)

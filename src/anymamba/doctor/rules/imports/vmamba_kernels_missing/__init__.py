"""VMamba's own kernels, which no package brings."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Rule, Signature, match_signatures

_NAMES = r"selective_scan_(?:cuda_(?:core|oflex|nrow|ndstate|test|v\d|oflex_rh|core_rh)\w*|vmamba\w*|core|oflex)"


def _log(log: Log) -> Optional[Match]:
    return match_signatures(
        log,
        (
            Signature(r"No module named '?" + _NAMES + "'?", own=True),
            Signature(r"NameError: name '" + _NAMES + "' is not defined", own=True),
            Signature(r"import " + _NAMES + r"[^\n]{0,20}(?:出错|报错|失败|fails?|error)", own=True, confidence=LIKELY),
            Signature(
                r"(?:找不到|没有|无法导入|can ?not (?:find|import)|can't (?:find|import)|no module)[^\n]{0,12}" + _NAMES,
                own=True,
                confidence=LIKELY,
            ),
        ),
    )


RULE = Rule(
    code="AM105",
    cause="vmamba-kernels-missing",
    order=421,
    log=_log,
    explains=("selective-scan-cuda-missing",),
)

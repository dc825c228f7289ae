"""pip reused a wheel that was made for another torch."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Rule


def _log(log: Log) -> Optional[Match]:
    cached = log.search(
        r"Using cached (?:\S*/)?(?:mamba_ssm|causal_conv1d)-[\w.+]+-cp3\d+-cp3\d+-\w+\.whl|(?:mamba[-_]ssm"
        r"|causal[-_]conv1d)[^\n]*(?:\.cache/pip/wheels|Stored in directory: [^\n]*pip[\\/]wheels)"
    )
    damage = log.search(
        r"undefined symbol|libcudart\.so\.\d+[^\n]*cannot open|DLL load failed|no kernel image is available"
        r"|GLIBC_2\.\d+. not found"
    )
    if cached and damage and damage.start() > cached.start():
        return Match((cached.start(), damage.start()), LIKELY)
    return None


RULE = Rule(
    code="AM021",
    cause="stale-pip-cache-wheel",
    order=402,
    log=_log,
    explains=("abi-undefined-symbol", "libcudart-not-found"),
)

"""No driver or no GPU for torch."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import Match, Rule, Signature, match_signatures


def _log(log: Log) -> Optional[Match]:
    if log.facts.get("system") == "wsl":
        return None
    return match_signatures(
        log,
        (
            Signature(r"Found no NVIDIA driver on your system"),
            Signature(r"RuntimeError: No CUDA GPUs are available"),
            Signature(r"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver"),
            Signature(r"could not select device driver \"\"? ?with capabilities: \[\[gpu\]\]"),
            Signature(r"libcuda\.so\.1: cannot open shared object file"),
            Signature(r"RuntimeError: 0 active drivers"),
        ),
    )


RULE = Rule(code="AM072", cause="no-gpu-visible", order=122, log=_log)

"""The wheel wants another CUDA major version."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, Match, Rule, Signature, match_signatures


def _log(log: Log) -> Optional[Match]:
    match = match_signatures(
        log,
        (
            Signature(r"ImportError: libcudart\.so\.[\d.]+: cannot open shared object file", bare=True),
            Signature(
                r"libcudart\.so\.\d+[\d.]*(?:: cannot open shared object file| => not found|: 无法打开共享[对目]象文件)"
            ),
            Signature(
                r"libc10_cuda\.so: cannot open shared object file|libtorch\w*\.so: cannot open shared object file"
            ),
        ),
    )
    if match and log.has(r"(?:bitsandbytes|tensorflow|jax)[^\n]*libcudart") and match.confidence != CERTAIN:
        return None
    return match


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    errors = [error for error in facts["packages"]["errors"].values() if "libcudart" in error]
    return Match((), CERTAIN, None, tuple(errors)) if errors else None


RULE = Rule(
    code="AM044",
    cause="libcudart-not-found",
    order=412,
    log=_log,
    machine=_machine,
    explains=("broken-package-reported-missing", "transformers-fast-path-warning"),
)

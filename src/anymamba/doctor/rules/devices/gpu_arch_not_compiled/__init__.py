"""The GPU's architecture is in neither torch nor the extension."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule, Signature, match_signatures


def _log(log: Log) -> Optional[Match]:
    match = match_signatures(
        log,
        (
            Signature(r"no kernel image is available for execution on the device"),
            Signature(
                r"with CUDA capability sm_\d+ is not compatible with the current PyTorch installation", bare=True
            ),
            Signature(r"CUDA error: invalid device function", confidence=LIKELY),
            Signature(r"cudaErrorNoKernelImageForDevice|hipErrorNoBinaryForGpu|CUDA_ERROR_NO_BINARY_FOR_GPU"),
            Signature(
                r"GPU\d? [^\n]*which is of cuda capability \d\.\d|no longer supports this GPU because it is too old"
            ),
        ),
    )
    if not match:
        return None
    arch = log.search(r"CUDA capability sm_(\d+)")
    return match._replace(values={"arch": arch.group(1)} if arch else None)


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    lines = []
    for gpu in facts["gpu"]["nvidia"]:
        supported = facts["torch"].get("archs") or ()
        number = gpu["capability"].replace(".", "")
        if (
            number
            and supported
            and not any(
                arch.lstrip("sm_") == number or arch[3:-1] == number[:-1] and int(arch[3:]) <= int(number)
                for arch in supported
            )
        ):
            lines.append("{} sm_{}; torch: {}".format(gpu["name"], number, " ".join(supported)))
    errors = [error for error in facts["packages"]["errors"].values() if "no kernel image" in error]
    return Match((), CERTAIN, None, tuple(lines + errors)) if lines or errors else None


RULE = Rule(code="AM058", cause="gpu-arch-not-compiled", order=600, log=_log, machine=_machine)

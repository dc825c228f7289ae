"""The driver is older than torch's CUDA."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor import versions
from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule, Signature, match_signatures

_SIGNATURES = (
    Signature(r"The NVIDIA driver on your system is too old \(found version \d+\)"),
    Signature(r"CUDA driver version is insufficient for CUDA runtime version"),
    Signature(r"provided PTX was compiled with an unsupported toolchain"),
    Signature(r"forward compatibility was attempted on non supported HW", confidence=LIKELY),
)


def _values(driver: str) -> Dict[str, str]:
    torch, index = versions.torch_with_cuda(None, driver)
    return {"driver_torch": torch, "driver_cuda": index}


def _log(log: Log) -> Optional[Match]:
    match = match_signatures(log, _SIGNATURES)
    number = log.search(r"found version (\d+)0(\d)0\)")
    shown = log.search(r"CUDA Version: ?(\d+\.\d+)")
    driver = "{}.{}".format(*number.groups()) if number else shown.group(1) if shown else "11.8"
    return match._replace(values=_values(driver)) if match else None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    driver, torch = facts["gpu"]["cuda"], facts["torch"].get("cuda")
    if driver and torch and int(driver.split(".")[0]) < int(torch.split(".")[0]):
        return Match(
            (),
            CERTAIN,
            _values(driver),
            ("driver: CUDA {}; torch: CUDA {}".format(driver, torch),),
        )
    return None


RULE = Rule(code="AM073", cause="cuda-driver-too-old", order=124, log=_log, machine=_machine)

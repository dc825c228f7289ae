"""The driver is older than torch's CUDA."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.rule import (
    CERTAIN,
    LIKELY,
    NECESSARY,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
)


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    driver, torch = facts["gpu"]["cuda"], facts["torch"].get("cuda")
    if driver and torch and int(driver.split(".")[0]) < int(torch.split(".")[0]):
        return Match(
            (),
            CERTAIN,
            {"cuda": "cu128" if driver.startswith("12") else "cu118"},
            ("driver: CUDA {}; torch: CUDA {}".format(driver, torch),),
        )
    return None


RULE = Rule(
    code="AM073",
    cause="cuda-driver-too-old",
    order=124,
    title=Text(
        "the NVIDIA driver is older than the CUDA version that torch was built for",
        "NVIDIA 驱动版本低于 torch 所用的 CUDA 版本",
    ),
    why=Text(
        "A torch for CUDA 13 needs a driver of the 580 series or newer, for CUDA 12 one of the 525 series.",
        "CUDA 13 版 torch 需要 580 系列以上的驱动，CUDA 12 版需要 525 系列以上。",
    ),
    needed=NECESSARY,
    signatures=(
        Signature(r"The NVIDIA driver on your system is too old \(found version \d+\)"),
        Signature(r"CUDA driver version is insufficient for CUDA runtime version"),
        Signature(r"provided PTX was compiled with an unsupported toolchain"),
        Signature(r"forward compatibility was attempted on non supported HW", confidence=LIKELY),
    ),
    machine=_machine,
    remedies=(
        Remedy(
            Text("Update the driver.", "更新驱动。"),
            ("sudo apt-get install --only-upgrade nvidia-driver-580    # or from nvidia.com",),
            powershell=("# nvidia.com/drivers",),
        ),
        Remedy(
            Text("Or use a torch for the driver's CUDA version.", "或使用与驱动匹配的 torch。"),
            ("pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{cuda}",),
        ),
    ),
)

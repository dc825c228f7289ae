"""The questions that the table is asked of a machine, answered from the doctor's facts: the machine may be another one."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Tuple

# Jetson boards: their CUDA is not the one of other ARM machines
_TEGRA = {53, 62, 72, 87, 110}


def number(text: Optional[str]) -> Tuple[int, int]:
    """Major and minor version; (0, 0) without any."""
    found = re.match(r"(\d+)\.(\d+)", text or "")
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


class Host:
    def __init__(self, facts: Dict[str, Any]) -> None:
        self.facts = facts
        self.kind: str = facts["system"]["kind"]
        self.processor: str = facts["system"]["machine"].replace("AMD64", "x86_64").replace("arm64", "aarch64")
        self.container: Optional[str] = facts["system"].get("container")
        self.cores: int = facts["system"].get("cores") or 1
        self.memory_gb: Optional[float] = facts["system"].get("memory_gb")
        self.python_minor: int = facts["python"]["minor"]
        self.torch: Dict[str, Any] = facts["torch"]

    @property
    def torch_kind(self) -> str:
        return self.torch["kind"] if self.torch.get("installed") else "missing"

    @property
    def torch_minor(self) -> str:
        return "{}.{}".format(*number(self.torch["version"]))

    @property
    def torch_cuda(self) -> Tuple[int, int]:
        return number(self.torch.get("cuda"))

    @property
    def abi(self) -> Optional[str]:
        """ "TRUE", "FALSE", or None where torch has not been asked and both exist."""
        if "abi" in self.torch:
            return "TRUE" if self.torch["abi"] else "FALSE"
        return "TRUE" if number(self.torch["version"]) >= (2, 7) else None

    @property
    def ngc(self) -> bool:
        named = bool(self.container and self.container.startswith("NVIDIA"))
        return named or bool(re.search(r"nv\d\d\.\d\d", self.torch.get("version") or ""))

    @property
    def architectures(self) -> List[int]:
        """Compute capabilities of the NVIDIA GPUs as torch and nvcc write them: 8.9 is 89."""
        first = []
        if self.torch.get("capability"):
            major, minor = self.torch["capability"]
            first = [major * 10 + minor]
        listed = [item["capability"] for item in self.facts["gpu"]["nvidia"] if item.get("capability")]
        return sorted(set(first + [int(item.replace(".", "")) for item in listed]))

    @property
    def tegra(self) -> bool:
        return self.processor == "aarch64" and any(item in _TEGRA for item in self.architectures)

    @property
    def glibc(self) -> Tuple[int, int]:
        return number(self.facts.get("libraries", {}).get("glibc"))

    @property
    def triton(self) -> Tuple[int, int]:
        return number(self.facts.get("triton", {}).get("version"))

    @property
    def driver_cuda(self) -> int:
        """The newest CUDA major version that the driver takes; 0 where it is not known."""
        return number(self.facts["gpu"].get("cuda"))[0]

    def nvcc(self) -> Optional[Dict[str, Any]]:
        """The nvcc with torch's CUDA major version; of several the one nearest to torch's minor, not older where possible."""
        return self.nvcc_for(self.torch_cuda)

    def nvcc_for(self, cuda: Tuple[int, int]) -> Optional[Dict[str, Any]]:
        """The nvcc with that CUDA major version."""
        same = [
            item for item in self.facts["cuda"]["nvccs"] if item["version"] and number(item["version"])[0] == cuda[0]
        ]
        used = self.facts["cuda"].get("used") or {}

        def rank(item: Dict[str, Any]) -> Tuple[bool, int, bool]:
            distance = number(item["version"])[1] - cuda[1]
            return distance < 0, abs(distance), item["path"] != used.get("path")

        return min(same, key=rank) if same else None

    def installed(self, module: str) -> Optional[str]:
        return self.facts["packages"][module].get("version")

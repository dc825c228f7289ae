"""The doctor's facts as the questions that a build asks. Reads the dictionary only: the machine may be another one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from anymamba.doctor.machine import compiler
from anymamba.installer.releases import KERNELS

# torch's headers are C++17
OLDEST_GCC = 9
# Jetson boards: their CUDA is not the one of other ARM machines
_TEGRA = {53, 62, 72, 87, 110}


def number(text: str | None) -> tuple[int, int]:
    """Major and minor version; (0, 0) without any."""
    found = re.match(r"(\d+)\.(\d+)", text or "")
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


class Machine:
    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.kind: str = facts["system"]["kind"]
        self.processor: str = facts["system"]["machine"].replace("AMD64", "x86_64").replace("arm64", "aarch64")
        self.container: str | None = facts["system"].get("container")
        self.cores: int = facts["system"].get("cores") or 1
        self.memory_gb: float | None = facts["system"].get("memory_gb")
        self.free_gb: float | None = facts["system"].get("temporary_free_gb")
        self.python_minor: int = facts["python"]["minor"]
        self.torch: dict[str, Any] = facts["torch"]

    @property
    def torch_kind(self) -> str:
        return self.torch["kind"] if self.torch.get("installed") else "missing"

    @property
    def torch_minor(self) -> str:
        return "{}.{}".format(*number(self.torch["version"]))

    @property
    def torch_cuda(self) -> tuple[int, int]:
        return number(self.torch.get("cuda"))

    @property
    def abi(self) -> str | None:
        """ "TRUE", "FALSE", or None where torch has not been asked and both exist."""
        if "abi" in self.torch:
            return "TRUE" if self.torch["abi"] else "FALSE"
        return "TRUE" if number(self.torch["version"]) >= (2, 7) else None

    @property
    def ngc(self) -> bool:
        return bool(re.search(r"nv\d\d\.\d\d", self.torch.get("version", ""))) or bool(
            self.container and self.container.startswith("NVIDIA")
        )

    @property
    def architectures(self) -> list[int]:
        """Compute capabilities of the NVIDIA GPUs as torch and nvcc write them: 8.9 is 89."""
        if self.torch.get("capability"):
            major, minor = self.torch["capability"]
            first = [major * 10 + minor]
        else:
            first = []
        listed = [item["capability"] for item in self.facts["gpu"]["nvidia"] if item.get("capability")]
        return sorted(set(first + [int(item.replace(".", "")) for item in listed]))

    @property
    def tegra(self) -> bool:
        return self.processor == "aarch64" and any(item in _TEGRA for item in self.architectures)

    @property
    def glibc(self) -> tuple[int, int]:
        return number(self.facts.get("libraries", {}).get("glibc"))

    @property
    def triton(self) -> tuple[int, int]:
        return number(self.facts.get("triton", {}).get("version"))

    def nvcc(self) -> dict[str, Any] | None:
        """The nvcc with torch's CUDA major version; of several the one nearest to torch's minor, not older where possible."""
        same = [
            item
            for item in self.facts["cuda"]["nvccs"]
            if item["version"] and number(item["version"])[0] == self.torch_cuda[0]
        ]
        used = self.facts["cuda"].get("used") or {}

        def rank(item: dict[str, Any]) -> tuple[bool, int, bool]:
            distance = number(item["version"])[1] - self.torch_cuda[1]
            return distance < 0, abs(distance), item["path"] != used.get("path")

        return min(same, key=rank) if same else None

    def gcc(self) -> dict[str, Any] | None:
        return self.facts["compiler"].get("gcc")

    def accepted_gcc(self, nvcc_version: str) -> dict[str, Any] | None:
        """The g++ for this nvcc: the usual one, or else the newest other one that both nvcc and torch's headers accept."""
        limit = self.gcc_limit(nvcc_version) or 1000
        usual = self.gcc()
        others = sorted(self.facts["compiler"].get("others", []), key=lambda item: -item["major"])
        every = [item for item in [usual, *others] if item]
        return next((item for item in every if OLDEST_GCC <= item["major"] < limit), None)

    def gcc_limit(self, nvcc_version: str) -> int | None:
        """The first major version of gcc that this nvcc refuses."""
        return compiler.limit(nvcc_version)

    def fast_ops(self, packages: Iterable[str]) -> tuple[int, list[str]]:
        """How many of the packages' kernels anymamba has compiled here too, and by which backends; (0, []) when not all.

        Compositions such as mamba_inner_fn are no kernels of their own, so that no backend is chosen for them.
        """
        table = self.facts.get("backends", {}).get("ops", {})
        ops = [op for package in packages for op in KERNELS[package]]
        chosen = [next((name for name, entry in table.get(op, {}).items() if entry.get("chosen")), "-") for op in ops]
        slow = [name for name in chosen if name in ("-", "torch", "reference", "official")]
        return (len(chosen), sorted(set(chosen))) if chosen and not slow else (0, [])

    def installed(self, module: str) -> str | None:
        return self.facts["packages"][module].get("version")

"""The doctor's facts as the questions that a build asks. Reads the dictionary only: the machine may be another one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from anymamba.doctor.compat.host import Host, number
from anymamba.doctor.machine import compiler
from anymamba.installer.releases import KERNELS

__all__ = ["OLDEST_GCC", "Machine", "number"]

# torch's headers are C++17
OLDEST_GCC = 9


class Machine(Host):
    @property
    def free_gb(self) -> float | None:
        return self.facts["system"].get("temporary_free_gb")

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
        backends = [next((name for name, entry in table.get(op, {}).items() if entry.get("chosen")), "-") for op in ops]
        slow = [name for name in backends if name in ("-", "torch", "reference", "official")]
        return (len(backends), sorted(set(backends))) if backends and not slow else (0, [])

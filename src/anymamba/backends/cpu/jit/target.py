"""What the kernels are compiled for: the host's vector width and instructions, or another processor's for tests."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass

import llvmlite.binding as llvm

from anymamba.language import _

WIDTH_VARIABLE = "ANYMAMBA_CPU_WIDTH"
"""16, 8 or 4: compile for AVX-512, AVX2 or SSE4.2 (on arm64 only 4, NEON) instead of the best the host has."""

_X86_LEVELS = {8: ("haswell", ""), 4: ("nehalem", "")}
"""The processors that stand for a narrower width: what is compiled for them holds nothing newer."""


@dataclass(frozen=True)
class Target:
    """width: float32 lanes of a vector. masked: partial vectors are loaded and stored by mask, without a branch.
    avx512: has scalef and rndscale. bf16, f16: converts to and from bfloat16, float16 in one instruction."""

    triple: str
    cpu: str
    features: str
    width: int
    avx512: bool = False
    fma: bool = True
    bf16: bool = False
    f16: bool = True

    @property
    def masked(self) -> bool:
        return self.avx512

    def machine(self) -> llvm.TargetMachine:
        """LLVM's code generator for it."""
        if self == NEON:
            llvm.initialize_all_targets()
            llvm.initialize_all_asmprinters()
        triple_target = llvm.Target.from_triple(self.triple)
        return triple_target.create_target_machine(self.cpu, self.features, opt=3, reloc="default", codemodel="jitdefault")

    def __str__(self) -> str:
        return f"{self.cpu} {self.width} lanes"


NEON = Target("aarch64-unknown-linux-gnu", "cortex-a76", "", width=4)
"""For tests that kernels compile for arm64 on any host."""


@functools.cache
def initialize() -> None:
    """Once a process."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def host() -> Target:
    """The processor we run on, narrowed by ANYMAMBA_CPU_WIDTH. Raises ValueError for a width that it does not have."""
    return _host(os.environ.get(WIDTH_VARIABLE, ""))


@functools.cache
def _host(wanted: str) -> Target:
    initialize()
    triple, cpu = llvm.get_process_triple(), llvm.get_host_cpu_name()
    if platform.machine().lower() in ("aarch64", "arm64"):
        widest = Target(triple, cpu, _host_features(), width=4)
    else:
        widest = _x86(triple, cpu)
    if not wanted or int(wanted) == widest.width:
        return widest
    if int(wanted) > widest.width or int(wanted) not in _X86_LEVELS or "86" not in triple:
        raise ValueError(
            _("{variable}={expected}, but this processor ({cpu}) has {lanes} float32 lanes").format(
                variable=WIDTH_VARIABLE, expected=wanted, cpu=cpu, lanes=widest.width
            )
        )
    name, features = _X86_LEVELS[int(wanted)]
    return Target(triple, name, features, width=int(wanted), fma=int(wanted) == 8, f16=int(wanted) == 8)


def _host_features() -> str:
    return str(llvm.get_host_cpu_features().flatten())


def _x86(triple: str, cpu: str) -> Target:
    has = llvm.get_host_cpu_features()
    features = _host_features()
    if all(has.get(name) for name in ("avx512f", "avx512dq", "avx512bw", "avx512vl", "fma", "f16c")):
        return Target(triple, cpu, features, 16, avx512=True, bf16=bool(has.get("avx512bf16")))
    if has.get("avx2") and has.get("fma"):
        return Target(triple, cpu, features, 8, f16=bool(has.get("f16c")))
    return Target(triple, cpu, features, 4, fma=False, f16=bool(has.get("f16c")))

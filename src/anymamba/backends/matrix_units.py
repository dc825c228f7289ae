"""Which 16-bit matrix products this processor computes itself. The others torch emulates, at a fifth of float32's speed and less."""

from __future__ import annotations

import functools
import platform

import torch

from anymamba.language import _


@functools.cache
def cpu_unit(dtype: torch.dtype) -> str:
    """The name of the processor's unit for products in this 16-bit dtype, or an empty string."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        has = _x86_capabilities()
        units = {
            torch.bfloat16: {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"},
            torch.float16: {"amx_fp16": "AMX-FP16", "avx512_fp16": "AVX512-FP16"},
        }.get(dtype, {})
        return next((name for flag, name in units.items() if flag in has), "")
    return "Arm BF16" if dtype == torch.bfloat16 and "bf16" in _arm_features() else ""


def widens(dtype: torch.dtype) -> bool:
    """Whether products in this dtype are computed in float32 here, from tiles that are widened one at a time."""
    return dtype in (torch.bfloat16, torch.float16) and not cpu_unit(dtype)


def why(dtype: torch.dtype) -> str:
    """What ``cpu_unit`` found, as a sentence."""
    unit = cpu_unit(dtype)
    if unit:
        return _("the processor has {unit}").format(unit=unit)
    if dtype == torch.float16:
        return _("the processor has neither AVX512-FP16 nor AMX-FP16")
    return _("the processor has neither AVX512-BF16 nor AMX nor Arm BF16")


def _x86_capabilities() -> set[str]:
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        return {name for name, present in capabilities().items() if present is True}
    checks = {"amx_bf16": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported", "amx_fp16": "_is_amx_fp16_supported"}
    return {name for name, check in checks.items() if getattr(torch.cpu, check, lambda: False)()}


def _arm_features() -> list[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("Features"):
                    return line.split(":", 1)[1].split()
    except OSError:
        pass
    return []

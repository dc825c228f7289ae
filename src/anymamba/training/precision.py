"""bf16 autocast or fp32: decided by what the hardware multiplies fast, and said why."""

from __future__ import annotations

import platform

import torch

from anymamba.errors import AnymambaError
from anymamba.language import say

CHOICES = ("auto", "bf16", "fp32")


def choose_precision(asked: str, device: torch.device) -> tuple[torch.dtype | None, str]:
    """(autocast dtype, or None for fp32 throughout; why). Weights, gradients and the optimiser stay in fp32 either way.

    fp16 is not offered: it needs loss scaling, and the range of the decay products of a scan exceeds its own.
    """
    if asked == "fp32":
        return None, say("asked for", "由用户指定")
    if asked == "bf16":
        return torch.bfloat16, say("asked for", "由用户指定")
    if asked != "auto":
        raise AnymambaError("usage", f"--precision {asked}: " + "|".join(CHOICES))
    fast, why = fast_bf16(device)
    return (torch.bfloat16 if fast else None), why


def fast_bf16(device: torch.device) -> tuple[bool, str]:
    """Does this device have bf16 matrix units, and which."""
    if device.type == "cuda":
        if torch.version.hip:
            ok = torch.cuda.is_bf16_supported()
            return ok, say(f"the GPU {'has' if ok else 'has no'} bf16 units", f"GPU {'具备' if ok else '不具备'} bf16 单元")
        major, minor = torch.cuda.get_device_capability(device)
        return major >= 8, say(
            f"compute capability {major}.{minor}, bf16 units come with 8.0", f"计算能力 {major}.{minor}，8.0 起有 bf16 单元"
        )
    if device.type == "xpu":
        return True, say("Intel GPUs have bf16 units", "Intel GPU 具备 bf16 单元")
    if device.type == "cpu":
        unit = _cpu_bf16_unit()
        if unit:
            return True, say(f"the processor has {unit}", f"处理器支持 {unit}")
        return False, say(
            "the processor has neither AVX512-BF16 nor AMX nor Arm BF16", "处理器不支持 AVX512-BF16、AMX 或 Arm BF16"
        )
    return False, say(f"not known to be faster on {device.type}", f"在 {device.type} 上未知是否更快")


def _cpu_bf16_unit() -> str:
    """The name of the unit, or an empty string."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        for unit, check in (("AMX", "_is_amx_tile_supported"), ("AVX512-BF16", "_is_avx512_bf16_supported")):
            if getattr(torch.cpu, check, lambda: False)():
                return unit
    if "bf16" in _arm_features():
        return "Arm BF16"
    return ""


def _arm_features() -> list[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("Features"):
                    return line.split(":", 1)[1].split()
    except OSError:
        pass
    return []

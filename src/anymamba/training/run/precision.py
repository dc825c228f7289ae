"""bf16 autocast or fp32: decided by what the hardware multiplies fast, and said why."""

from __future__ import annotations

import torch

from anymamba.backends import matrix_units
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
        fast, why = fast_bf16(device)
        slow = say(f"; {why}: not faster than fp32 here", f"；{why}：此处不比 fp32 快")
        return torch.bfloat16, say("asked for", "由用户指定") + ("" if fast else slow)
    if asked != "auto":
        raise AnymambaError("usage", say(f"--precision {asked}: choose from ", f"--precision {asked}：请选择 ") + ", ".join(CHOICES))
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
        return bool(matrix_units.cpu_unit(torch.bfloat16)), matrix_units.why(torch.bfloat16)
    return False, say(f"not known to be faster on {device.type}", f"在 {device.type} 上未知是否更快")

"""bf16 autocast or fp32: decided by what the hardware multiplies fast, and said why."""

from __future__ import annotations

import torch

from anymamba.backends import matrix_units
from anymamba.errors import AnymambaError
from anymamba.language import _

CHOICES = ("auto", "bf16", "fp32")


def choose_precision(asked: str, device: torch.device) -> tuple[torch.dtype | None, str]:
    """(autocast dtype, or None for fp32 throughout; why). Weights, gradients and the optimiser stay in fp32 either way.

    fp16 is not offered: it needs loss scaling, and the range of the decay products of a scan exceeds its own.
    """
    if asked == "fp32":
        return None, _("asked for")
    if asked == "bf16":
        fast, why = fast_bf16(device)
        slow = _("; {why}: not faster than fp32 here").format(why=why)
        return torch.bfloat16, _("asked for") + ("" if fast else slow)
    if asked != "auto":
        raise AnymambaError("usage", _("--precision {name}: choose from ").format(name=asked) + ", ".join(CHOICES))
    fast, why = fast_bf16(device)
    return (torch.bfloat16 if fast else None), why


def fast_bf16(device: torch.device) -> tuple[bool, str]:
    """Does this device have bf16 matrix units, and which."""
    if device.type == "cuda":
        if torch.version.hip:
            ok = torch.cuda.is_bf16_supported()
            return ok, (_("the GPU has bf16 units") if ok else _("the GPU has no bf16 units"))
        major, minor = torch.cuda.get_device_capability(device)
        return major >= 8, _("compute capability {major}.{minor}, bf16 units come with 8.0").format(
            major=major, minor=minor
        )
    if device.type == "xpu":
        return True, _("Intel GPUs have bf16 units")
    if device.type == "cpu":
        return bool(matrix_units.cpu_unit(torch.bfloat16)), matrix_units.why(torch.bfloat16)
    return False, _("not known to be faster on {device}").format(device=device.type)

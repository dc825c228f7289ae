"""``dtype="auto"``: the weights' dtype that is fast on a device, without rounding them below what was saved."""

from __future__ import annotations

import torch

from anymamba.backends import matrix_units
from anymamba.language import _


def fastest(saved: torch.dtype, device: torch.device) -> tuple[torch.dtype, str]:
    """(dtype, why). By facts about the processor or GPU, so that the same machine gives the same numbers on every run. Asked about its own
    answer, it gives it again."""
    if saved not in (torch.bfloat16, torch.float16):
        return saved, _("as saved: 16 bits would round the weights")
    if device.type == "cpu":
        unit = ""
        if not matrix_units.cpu_unit(saved):
            unit = _(", so its products run in float32, as fast as float32 weights")
        return saved, matrix_units.why(saved) + unit + _("; a step reads half the bytes")
    if device.type == "cuda" and saved == torch.bfloat16 and not torch.version.hip:
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:
            return torch.float32, _(
                "compute capability {major}.{minor} has no bfloat16 units, and float16 has not its range"
            ).format(major=major, minor=minor)
    return saved, _("as saved")

"""``dtype="auto"``: the weights' dtype that is fast on a device, without rounding them below what was saved."""

from __future__ import annotations

import torch

from anymamba.backends import matrix_units
from anymamba.language import say


def fastest(saved: torch.dtype, device: torch.device) -> tuple[torch.dtype, str]:
    """(dtype, why). By facts about the processor or GPU, so that the same machine gives the same numbers on every run. Asked about its own
    answer, it gives it again."""
    if saved not in (torch.bfloat16, torch.float16):
        return saved, say("as saved: 16 bits would round the weights", "与保存时一致：16 位会舍入权重")
    if device.type == "cpu":
        unit = ""
        if not matrix_units.cpu_unit(saved):
            unit = say(", so its products run in float32, as fast as float32 weights", "，因此其乘积以 float32 计算，与 float32 权重同速")
        return saved, matrix_units.why(saved) + unit + say("; a step reads half the bytes", "；每步读取的字节减半")
    if device.type == "cuda" and saved == torch.bfloat16 and not torch.version.hip:
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:
            return torch.float32, say(
                f"compute capability {major}.{minor} has no bfloat16 units, and float16 has not its range",
                f"计算能力 {major}.{minor} 没有 bfloat16 单元，而 float16 的数值范围不够",
            )
    return saved, say("as saved", "与保存时一致")

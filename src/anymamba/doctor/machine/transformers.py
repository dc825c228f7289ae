"""What the installed transformers will do with mamba_ssm and causal_conv1d; its gate changed twice."""

from __future__ import annotations

from typing import Any, Dict

from anymamba.doctor.machine import distributions
from anymamba.doctor.situation import short
from anymamba.language import say


def gather() -> Dict[str, Any]:
    version = distributions.version("transformers")
    if version is None:
        return {"installed": False}
    number = short(version)
    era = "4" if number < (5,) else "5.0" if number < (5, 15) else "5.15"
    return {"installed": True, "version": version, "era": era, "kernels": distributions.version("kernels")}


def verdict(facts: Dict[str, Any]) -> str:
    """One sentence: which path Mamba models take here, and why."""
    era = facts["transformers"]["era"]
    packages = facts["packages"]
    both = packages["mamba_ssm"]["installed"] and packages["causal_conv1d"]["installed"]
    broken = bool(packages["errors"])
    gpu = facts["torch"].get("gpu", bool(facts["gpu"]["nvidia"]))
    if era == "5.15":
        if broken:
            return say(
                'slow path: the packages are there and fail to import, which transformers calls "not installed"',
                "慢速路径：包已安装但导入失败，transformers 会说它们“未安装”",
            )
        if both:
            return say("uses the installed packages, whatever the device", "使用已安装的包，与设备无关")
        return say(
            "slow path: no package named mamba_ssm; anymamba's drop-in would be used on CPU and GPU",
            "慢速路径：没有 mamba_ssm；anymamba 的替身模块在 CPU 与 GPU 上都会被采用",
        )
    if not gpu:
        return say(
            "slow path: this version uses mamba_ssm only with a CUDA GPU",
            "慢速路径：该版本只在有 CUDA 显卡时使用 mamba_ssm",
        )
    if not both or broken:
        return say(
            'slow path, with the warning "The fast path is not available"',
            '慢速路径，并会警告 "The fast path is not available"',
        )
    if era == "5.0":
        return say(
            "fast path on CUDA; FalconMamba only through the kernels package",
            "在 CUDA 上走快速路径；FalconMamba 仅能通过 kernels 包",
        )
    return say("fast path on CUDA", "在 CUDA 上走快速路径")

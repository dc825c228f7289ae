"""What the installed transformers will do with mamba_ssm and causal_conv1d; its gate changed twice."""

from __future__ import annotations

from typing import Any, Dict

from anymamba.doctor.machine import distributions
from anymamba.doctor.situation import short
from anymamba.language import _


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
            return _('slow path: the packages are there and fail to import, which transformers calls "not installed"')
        if both:
            return _("uses the installed packages, whatever the device")
        return _("slow path: no package named mamba_ssm; anymamba's drop-in would be used on CPU and GPU")
    if not gpu:
        return _("slow path: this version uses mamba_ssm only with a CUDA GPU")
    if not both or broken:
        return _('slow path, with the warning "The fast path is not available"')
    if era == "5.0":
        return _("fast path on CUDA; FalconMamba only through the kernels package")
    return _("fast path on CUDA")

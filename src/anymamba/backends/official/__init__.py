"""A working mamba-ssm and causal-conv1d, where the user has them: trusted like any compiled code, after a self-check.

Preferred only where no backend of ours has the op. Their wrappers are called as they are; ``supports`` says what they cannot take.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch

from anymamba.backends.machine import library_version
from anymamba.language import _

OPS: dict[str, str] = {
    "causal_conv1d_fn": "anymamba.backends.official.causal_conv1d",
    "causal_conv1d_update": "anymamba.backends.official.causal_conv1d",
    "selective_scan_fn": "anymamba.backends.official.selective_scan",
    "selective_state_update": "anymamba.backends.official.selective_state_update",
    "mamba_chunk_scan_combined": "anymamba.backends.official.ssd",
    "layer_norm_fn": "anymamba.backends.official.norm",
    "rms_norm_fn": "anymamba.backends.official.norm",
    "layernorm_fn": "anymamba.backends.official.norm_gated",
    "rmsnorm_fn": "anymamba.backends.official.norm_gated",
}


@functools.cache
def available() -> tuple[bool, str]:
    """Is one of the two packages here, really theirs and not our drop-in, and is there a GPU for it."""
    if not torch.cuda.is_available():
        return False, _("mamba-ssm and causal-conv1d need a CUDA or ROCm GPU")
    packages = [f"{name} {version}" for name in ("mamba-ssm", "causal-conv1d") if (version := library_version(name))]
    if not packages:
        return False, _("neither mamba-ssm nor causal-conv1d is installed")
    return True, ", ".join(packages)


def versions() -> str:
    return f"mamba-ssm {library_version('mamba-ssm')} causal-conv1d {library_version('causal-conv1d')}"


def upstream(module: str) -> ModuleType:
    """The real package's module. Raises ImportError with its own words, or when the drop-in stands in its place."""
    package = importlib.import_module(module)
    if getattr(importlib.import_module(module.partition(".")[0]), "__anymamba__", False):
        raise ImportError(f"{module} is anymamba's drop-in, not the official package")
    return package


def importable(module: str, *names: str) -> tuple[bool, str]:
    """Does that module of the real package import, with these names."""
    try:
        function = upstream(module)
    except Exception as error:  # noqa: BLE001 - an extension of another ABI fails in many ways; its words are the reason
        return False, f"{module}: {type(error).__name__}: {error}"
    missing = [name for name in names if getattr(function, name, None) is None]
    if missing:
        return False, _("{module} has no ").format(module=module) + ", ".join(missing)
    return True, _("{module} imports").format(module=module)


def without(features: frozenset[str], *unsupported: str) -> tuple[bool, str]:
    """(False, which) if the call uses an option that upstream does not have."""
    refused = sorted(features.intersection(unsupported))
    return (False, _("upstream has no ") + ", ".join(refused)) if refused else (True, "")

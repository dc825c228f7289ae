"""What others run for the same op. A peer that is not installed is named with the reason, and is no error."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.machine import library_version
from anymamba.language import _

TRANSFORMERS = "transformers"
"""Its path without kernel packages: a Python loop over time for Mamba-1, padded chunks for Mamba-2."""
MAMBAPY = "mambapy"
"""Its pscan, through transformers' use_mambapy."""
OFFICIAL = "mamba-ssm"
"""An installed mamba-ssm and causal-conv1d, measured here."""
OFFICIAL_H100 = "mamba-ssm on H100"
"""The constants of official.py."""

Peer = Callable[..., Any] | str


def versions() -> dict[str, str | None]:
    names = {"transformers": "transformers", "mambapy": "mambapy", "mamba-ssm": "mamba-ssm", "causal-conv1d": "causal-conv1d"}
    return {name: library_version(distribution) for name, distribution in names.items()}


def of_op(op: str, device: torch.device) -> dict[str, Peer]:
    """Peers of an op by name: a function that takes the op's arguments, or the reason why there is none here."""
    peers: dict[str, Peer] = {}
    if op in _TRANSFORMERS_OPS:
        peers[TRANSFORMERS] = _transformers_op(op)
    if op == "selective_scan_fn":
        peers[MAMBAPY] = _pscan()
    if op in _OFFICIAL_OPS and device.type == "cuda":
        peers[OFFICIAL] = _official_op(op)
    return peers


def slow(device: torch.device, mamba1: bool, backward: bool) -> frozenset[str]:
    """Peers that take minutes: transformers' backward through Mamba-1, whose loop over time costs the square of the length, and on
    a GPU everything that is made of thousands of small kernels, at the sizes measured there."""
    if device.type == "cuda":
        return frozenset({TRANSFORMERS, MAMBAPY})
    return frozenset({TRANSFORMERS} if mamba1 and backward else ())


def sequential_transformers() -> str | None:
    """None when transformers runs its own path here, else the reason why it does not."""
    if library_version("transformers") is None:
        return _("transformers is not installed")
    for package in ("mamba_ssm", "causal_conv1d"):
        if importlib.util.find_spec(package) is not None:
            return _("{package} is importable here, so transformers runs that instead of its own path").format(
                package=package
            )
    return None


def quieten_transformers() -> None:
    """It would say on stderr that its own path is slow, which is what we are about to measure."""
    logging: Any = importlib.import_module("transformers.utils.logging")
    logging.set_verbosity_error()


_TRANSFORMERS_OPS = {
    "selective_scan_fn": ("mamba", "mamba_selective_scan", {"u": "hidden_states", "delta": "dt"}),
    "mamba_chunk_scan_combined": ("mamba2", "mamba2_chunk_scan", {"x": "hidden_states"}),
    "causal_conv1d_fn": ("mamba", "causal_conv1d_fn", {"x": "hidden_states"}),
    "causal_conv1d_update": ("mamba", "causal_conv1d_update", {"x": "hidden_states"}),
    "selective_state_update": ("mamba", "mamba_selective_state_update", {"x": "hidden_states"}),
}
"""op -> (modeling file, function of transformers 5.15 and later, its names for our arguments)."""


def _transformers_op(op: str) -> Peer:
    reason = sequential_transformers()
    if reason:
        return reason
    family, name, renamed = _TRANSFORMERS_OPS[op]
    quieten_transformers()
    try:
        module: Any = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        function: Callable[..., Any] = getattr(module, name)
    except (ImportError, AttributeError) as error:
        return f"transformers {library_version('transformers')}: {error}"
    if op == "selective_state_update":
        heads: Any = importlib.import_module("transformers.models.mamba2.modeling_mamba2")
        return functools.partial(_step, function, heads.mamba2_selective_state_update)
    if op == "mamba_chunk_scan_combined":
        return functools.partial(_chunk_scan, function)
    if op == "causal_conv1d_update":
        return functools.partial(_conv_step, function)
    return functools.partial(_renamed, function, renamed)


def _renamed(function: Callable[..., Any], names: dict[str, str], **arguments: Any) -> Any:
    return function(**{names.get(name, name): value for name, value in arguments.items()})


def _chunk_scan(function: Callable[..., Any], z: Tensor | None = None, **arguments: Any) -> Tensor:
    # transformers gates in the norm that follows; the gate is part of what we time
    arguments["hidden_states"] = arguments.pop("x")
    out: Tensor = function(**arguments).to(arguments["hidden_states"].dtype)
    return out if z is None else out * torch.nn.functional.silu(z)


def _step(one: Callable[..., Any], many: Callable[..., Any], x: Tensor, **more: Any) -> Any:
    return (one if x.dim() == 2 else many)(hidden_states=x, **more)


def _conv_step(function: Callable[..., Any], x: Tensor, **more: Any) -> Any:
    return function(x.unsqueeze(-1), **more)


def _pscan() -> Peer:
    if library_version("mambapy") is None:
        return _("mambapy is not installed")
    scan = _transformers_op("selective_scan_fn")
    return scan if isinstance(scan, str) else functools.partial(scan, use_mambapy=True)


_OFFICIAL_OPS = {
    "selective_scan_fn": "mamba_ssm.ops.selective_scan_interface",
    "mamba_chunk_scan_combined": "mamba_ssm.ops.triton.ssd_combined",
    "selective_state_update": "mamba_ssm.ops.triton.selective_state_update",
    "rms_norm_fn": "mamba_ssm.ops.triton.layer_norm",
    "rmsnorm_fn": "mamba_ssm.ops.triton.layernorm_gated",
    "causal_conv1d_fn": "causal_conv1d",
    "causal_conv1d_update": "causal_conv1d",
}


def _official_op(op: str) -> Peer:
    package = _OFFICIAL_OPS[op].split(".")[0].replace("_", "-")
    if library_version(package) is None:
        return _("{package} is not installed").format(package=package)
    try:
        return getattr(importlib.import_module(_OFFICIAL_OPS[op]), op)
    except Exception as error:  # noqa: BLE001 - a broken build of the peer is reported, not ours to raise
        return f"{type(error).__name__}: {error}"

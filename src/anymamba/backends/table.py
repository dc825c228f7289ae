"""The whole decision table of a device: op x backend, chosen, available or why not."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from anymamba.backends import REGISTRY, dispatch, probes
from anymamba.backends.call import Call
from anymamba.errors import AnymambaWarning, BackendError
from anymamba.language import say

_DIFFERENTIABLE = {
    "causal_conv1d_fn", "selective_scan_fn", "mamba_inner_fn", "mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined",
    "mamba3_siso", "mamba3_mimo", "layer_norm_fn", "rms_norm_fn", "layernorm_fn", "rmsnorm_fn",
}  # fmt: skip
_OPTIONS = {
    "D", "z", "delta_bias", "delta_softplus", "dt_bias", "dt_softplus", "bias", "activation", "residual", "prenorm", "group_size",
    "initial_states", "return_final_states",
}  # fmt: skip
COMPOSED = {
    "mamba_inner_fn": ("causal_conv1d_fn", "selective_scan_fn"),
    "mamba_split_conv1d_scan_combined": ("causal_conv1d_fn", "mamba_chunk_scan_combined", "rmsnorm_fn"),
}
"""Ops that are made of these when no backend has them fused."""


def decide(device: torch.device, dtype: torch.dtype) -> dict[str, dict[str, dict[str, Any]]]:
    """{op: {backend: {"ok", "chosen", "failed", "reason"}}} for a typical call of each op, with gradients where it has them.

    failed: the backend is meant for this device and implements the op, yet cannot be used."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for op in probes.PROBES:
        call = _typical_call(op, device, dtype)
        result[op] = {name: _cell(name, call) for name in REGISTRY}
        chosen, why = _chosen(op, call)
        for name, cell in result[op].items():
            cell["chosen"] = name == chosen
            if cell["chosen"]:
                cell["reason"] = why
    return result


def _typical_call(op: str, device: torch.device, dtype: torch.dtype) -> Call:
    """The call that the op's probe makes: the options that the models use."""
    probe = probes.PROBES[op](lambda *shape: torch.zeros(*shape))
    given = {
        name for name, value in {**probe.inputs, **probe.options}.items() if value is not None and value is not False
    }
    sizes = {"width": 4} if op.startswith("causal_conv1d") else {"d_state": 16, "headdim": 16}
    return Call(op, device, dtype, op in _DIFFERENTIABLE, frozenset(given & _OPTIONS), tuple(sorted(sizes.items())))


def _cell(name: str, call: Call) -> dict[str, Any]:
    entry = REGISTRY[name]
    if entry.devices and call.device.type not in entry.devices:
        reason = say(f"not for {call.device.type} tensors", f"不用于 {call.device.type} 张量")
        return {"ok": False, "failed": False, "reason": reason}
    ok, reason = dispatch.verdict(entry, call)
    # a package that is not installed is no fault; a kernel that was tried and found wrong is
    failed = not ok and entry.checked and dispatch.implements(entry, call.op)
    return {"ok": ok, "failed": failed, "reason": reason}


def _chosen(op: str, call: Call) -> tuple[str | None, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnymambaWarning)
        try:
            fused = dispatch.choose_fused(call) if op in COMPOSED else dispatch.choose(call)
            if fused:
                return fused.backend, fused.why
            parts = [
                (part, dispatch.choose(_typical_call(part, call.device, call.dtype)).backend) for part in COMPOSED[op]
            ]
        except BackendError as error:
            return None, str(error)
    which = ", ".join(f"{part} ({backend})" for part, backend in parts)
    return None, say("composed of ", "由以下算子组成：") + which

"""The whole decision table of a device: op x backend, chosen, available or why not."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from anymamba.backends import REGISTRY, dispatch
from anymamba.backends.call import Call
from anymamba.backends.observers import call_of
from anymamba.backends.opspec import SPECS, OpSpec
from anymamba.backends.probes import as_given
from anymamba.errors import AnymambaWarning, BackendError
from anymamba.language import _

Progress = Callable[[str, bool, float], None]
"""Told of a kernel whenever a call has had it checked: backend, op and variant, whether it works, seconds."""


def decide(
    device: torch.device, dtype: torch.dtype, check: bool = False, progress: Progress | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """{op: {backend: {"ok", "chosen", "failed", "reason", "variant", "variants"}}} for a typical call of each op, with gradients where it
    has them.

    failed: the backend is meant for this device and implements the op, yet cannot be used, or a variant of it cannot. variant: the kernel
    that the call takes. variants: {name: {"ok", "reason"}} of those that published models take, with check; it runs them."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for op, spec in SPECS.items():
        call = _typical_call(spec, device, dtype)
        calls = [_typical_call(spec, device, dtype, sizes) for sizes in spec.published] if check else []
        result[op] = {name: _cell(name, call, calls, progress) for name in REGISTRY}
        choice, why = _chosen(spec, call)
        for name, cell in result[op].items():
            cell["chosen"] = name == choice
            if cell["chosen"]:
                cell["reason"] = why
    return result


def _typical_call(spec: OpSpec, device: torch.device, dtype: torch.dtype, sizes: Mapping[str, Any] | None = None) -> Call:
    """With the inputs and options that the models use."""
    empty_call = Call(spec.name, torch.device("meta"), dtype)
    arguments = spec.build(**(sizes or {}))(lambda *shape: torch.empty(shape, device="meta"))
    call = call_of(spec.function, {name: as_given(name, value, spec, empty_call) for name, value in arguments.items()})
    return dataclasses.replace(call, device=device, grad=bool(spec.differentiable))


def _cell(name: str, call: Call, others: list[Call], progress: Progress | None) -> dict[str, Any]:
    entry = REGISTRY[name]

    def verdict(call: Call) -> tuple[bool, str]:
        started = time.perf_counter()
        ok, reason = dispatch.verdict(entry, call)
        if progress and entry.checked and dispatch.implements(entry, call.op):
            kernel = dispatch.variant(entry, call)
            progress(f"{name} {call.op}" + (f", {kernel}" if kernel else ""), ok, time.perf_counter() - started)
        return ok, reason

    if entry.automatic and not dispatch.meant_for(entry, call.device):
        reason = dispatch.not_for(entry, call.device)
        return {"ok": False, "failed": False, "reason": reason, "variant": "", "variants": {}}
    ok, reason = verdict(call)
    here = dispatch.implements(entry, call.op)
    variants = {}
    for other in (call, *others) if here and others else ():
        other_ok, other_reason = verdict(other)
        variants[dispatch.variant(entry, other)] = {"ok": other_ok, "reason": other_reason}
    # a package that is not installed is no fault; a kernel that was tried and found wrong is
    failed = entry.checked and here and not (ok and all(found["ok"] for found in variants.values()))
    variant = dispatch.variant(entry, call) if here else ""
    return {"ok": ok, "failed": failed, "reason": reason, "variant": variant, "variants": variants}


def _chosen(spec: OpSpec, call: Call) -> tuple[str | None, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnymambaWarning)
        try:
            choice = dispatch.choose_fused(call) if spec.composed_of else dispatch.choose(call)
            if choice:
                return choice.backend, choice.why
            parts = [
                (part, dispatch.choose(_typical_call(SPECS[part], call.device, call.dtype)).backend) for part in spec.composed_of
            ]
        except BackendError as error:
            return None, str(error)
    which = ", ".join(f"{part} ({backend})" for part, backend in parts)
    return None, _("composed of ") + which

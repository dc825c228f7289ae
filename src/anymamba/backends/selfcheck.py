"""A JIT or compiled backend is trusted on a device only after it has reproduced the reference there.

At the first use of (op, backend, variant, device, dtype, gradients or not) small inputs that take this variant run on the backend and,
in float64, on the reference. A variant, a kernel or a plan of one, that does not compile, is wrong or crashes is rejected alone. This
catches a missing kernel image on a new GPU, an ABI break and silent corruption, before the user's numbers pass through it. Verdicts
are kept on disk; new versions or edited sources make the check run again.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

import torch

from anymamba import cachefolder, reference
from anymamba.backends import probes
from anymamba.backends.call import Call
from anymamba.backends.opspec import Build, spec_of
from anymamba.language import _
from anymamba.version import __version__

_FILE = "selfcheck.json"

TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 6e-2}
"""Largest allowed error relative to the largest magnitude of the tensor. A probe is short, so rounding stays far below
these; a wrong kernel is off by order one. How close a backend is, `anymamba verify` measures."""

_verdicts: dict[str, Any] | None = None
_running: set[str] = set()


def passed(backend: str, package: ModuleType, module: ModuleType, call: Call) -> tuple[bool, str]:
    """(True, how close) or (False, the measured error or the exception's text), from the cache or by a run now."""
    # what `anymamba verify` found wrong is refused whatever the variant
    whole = _load().get(_key(backend, package, call))
    if _is_verdict(whole) and not whole[0]:
        return False, str(whole[1])
    key = _key(backend, package, call, variant(module, call))
    if key in _running:
        return True, _("its self-check is running")
    verdict = _load().get(key)
    if not _is_verdict(verdict):  # none yet, or a damaged file
        _running.add(key)
        try:
            verdict = run(module, call)
        finally:
            _running.discard(key)
        _keep(key, verdict)
    return bool(verdict[0]), str(verdict[1])


def _is_verdict(kept: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(kept, (list, tuple)) and len(kept) == 2


def variant(module: ModuleType, call: Call) -> str:
    """Name of the kernel, or of the plan of a kernel, that the call takes in this module of a backend; "" where there is one for all."""
    return module.variant(call) if hasattr(module, "variant") else ""


def record(backend: str, package: ModuleType, call: Call, ok: bool, reason: str) -> None:
    """Takes over a verdict that was reached elsewhere (`anymamba verify`), in memory and on disk."""
    _keep(_key(backend, package, call), (ok, reason))


def reject(backend: str, package: ModuleType, module: ModuleType, call: Call, reason: str) -> None:
    """The variant that the call takes was refused when it was needed. For this process only: the next may have what was lacking."""
    _load()[_key(backend, package, call, variant(module, call))] = False, reason


def probes_of(module: ModuleType, call: Call) -> list[Build]:
    """Small inputs that take the variant that the call takes in this module of a backend."""
    spec = spec_of(call.op)
    if hasattr(module, "probe"):
        return [spec.build(**sizes) for sizes in module.probe(call)]
    return [spec.probe_of(call) if variant(module, call) else spec.build()]


def run(module: ModuleType, call: Call) -> tuple[bool, str]:
    """Runs the probe now, whatever the cache says."""
    try:
        builds = probes_of(module, call)
        # what the caller has switched on must not reach the probe: autocast would round the reference too, and gradient
        # checkpointing would count the probe's tensors as the caller's (only the innermost hooks act)
        plain_hooks = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
        with torch.inference_mode(False), torch.autocast(call.device.type, enabled=False), torch.device("cpu"), plain_hooks:
            errors = [probes.largest_error(getattr(module, call.op), call, build) for build in builds]
    except Exception as error:  # noqa: BLE001 - a crash of the backend is a verdict
        return False, _("self-check crashed: ") + f"{type(error).__name__}: {error}"
    worst, where = max(errors, key=lambda error: math.inf if math.isnan(error[0]) else error[0])
    limit = TOLERANCE[call.dtype]
    if not worst <= limit:  # written so that NaN fails
        return False, _("self-check failed: {where} is off by {worst:.2g} (allowed {limit:.0e})").format(
            where=where, worst=worst, limit=limit
        )
    return True, _("self-check passed, largest error {worst:.1g}").format(worst=worst)


def forget() -> None:
    """Drops every verdict, in memory and on disk, so that the next use checks again."""
    global _verdicts
    _verdicts = {}
    cachefolder.write_json(_FILE, {})


def _keep(key: str, verdict: tuple[bool, str]) -> None:
    """In memory, and on disk beside what other processes have found since this one read the file."""
    _load()[key] = verdict
    verdicts = cachefolder.read_json(_FILE)
    cachefolder.write_json(_FILE, {**_load(), **(verdicts if isinstance(verdicts, dict) else {}), key: verdict})


def _load() -> dict[str, Any]:
    global _verdicts
    if _verdicts is None:
        stored = cachefolder.read_json(_FILE)
        _verdicts = stored if isinstance(stored, dict) else {}
    return _verdicts


def _key(backend: str, package: ModuleType, call: Call, variant: str = "") -> str:
    device = torch.cuda.get_device_name(call.device) if call.device.type == "cuda" else call.device.type
    dtype = str(call.dtype).removeprefix("torch.")
    grad = "backward" if call.grad else "forward"
    versions = f"{__version__} torch {torch.__version__} {package.versions()} {_sources(package, call.op)}"
    return " | ".join((call.op, backend, device, dtype, grad, *([variant] if variant else []), versions))


_digests: dict[str, str] = {}


def _sources(package: ModuleType, op: str) -> str:
    """Digest of the files that a verdict depends on, the backend's, the reference's and the op's: an edited kernel is checked again."""
    name = package.__name__
    if name not in _digests:
        _digests[name] = _digest(package, reference, probes)
    if op not in _digests:
        _digests[op] = _digest(sys.modules[spec_of(op).function.__module__])
    return f"{_digests[name]} {_digests[op]}"


def _digest(*modules: ModuleType) -> str:
    digest = hashlib.sha256()
    for module in modules:
        path = Path(str(module.__file__))
        package_files = sorted(file for file in path.parent.rglob("*") if file.suffix in (".py", ".cu", ".cuh"))
        for file in package_files if path.name == "__init__.py" else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]

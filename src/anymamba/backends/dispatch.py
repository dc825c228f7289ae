"""Which backend serves a call, and why.

An explicit choice (``backend=``, ``use_backend`` or ``set_backend``, ANYMAMBA_BACKEND, in that order) succeeds or raises.
An automatic one takes the first backend of the registry that is available, supports the call and has passed its self-check on this
device; when that is not the one the device deserves, it says so once.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any

import torch

from anymamba.backends import REGISTRY, Entry, contract, observers, selfcheck, transforms
from anymamba.backends.accelerator import is_nvidia
from anymamba.backends.call import Call
from anymamba.backends.choice import Choice
from anymamba.backends.recent import Recent
from anymamba.backends.refusal import NotCompiled
from anymamba.errors import BackendError, warn_once
from anymamba.language import _

_override: str | None = None
_fused: dict[tuple[Call, str | None], str | None] = {}
_choices: dict[tuple[Call, str | None], Choice | BackendError] = {}
_ready: dict[Any, tuple[Call, Choice, Callable[..., Any]]] = {}
_recent: dict[str, Recent] = {}
_MOST_READY = 4096
"""Calls, and signatures of calls, that are remembered: a length that grows with every call must not fill the memory."""


class use_backend:
    """Selects a backend for a block: ``with use_backend("torch"): ...``; None: automatic. It acts from the entry of the block to its end.

    The choice holds for the whole process, other threads included; ``set_backend`` makes one without an end. One object serves
    any number of blocks, also one inside another. Raises BackendError for an unknown name.
    """

    def __init__(self, name: str | None) -> None:
        if name is not None:
            _entry(name)
        self._name = name
        self._entered = False
        self._before: list[str | None] = []

    def __enter__(self) -> use_backend:
        self._entered = True
        self._before.append(set_backend(self._name))
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        global _override
        _override = self._before.pop()

    def __del__(self) -> None:
        if not getattr(self, "_entered", True):  # it has none where the name was unknown
            warn_once(
                f"use_backend:{self._name}",
                _(
                    "use_backend({name!r}) was not entered, so it changed nothing: write `with anymamba.use_backend({name!r}):`, or "
                    "`anymamba.set_backend({name!r})` for every following call"
                ).format(name=self._name),
            )


def set_backend(name: str | None) -> str | None:
    """Selects a backend for every following call of the process; None: automatic again. Returns what was selected before.

    Raises BackendError for an unknown name.
    """
    global _override
    if name is not None:
        _entry(name)
    before, _override = _override, name
    return before


def requested_backend(backend: str | None = None) -> str | None:
    """The explicit choice in force, or None: the argument, then ``use_backend`` or ``set_backend``, then ANYMAMBA_BACKEND."""
    return backend or _override or os.environ.get("ANYMAMBA_BACKEND") or None


def choose(call: Call, backend: str | None = None) -> Choice:
    """The backend for this call. Cheap after the first time: the answer is kept for (call, explicit choice).

    Raises BackendError when an explicitly chosen backend cannot serve it (with the reason, and those that can), or when none can.
    """
    key = call, requested_backend(backend)
    if transforms.transformed():
        key = call, transforms.backend_inside(call.op, key[1])
    kept = _choices.get(key)
    if kept is None:
        try:
            kept = _decide(*key)
        except BackendError as error:
            kept = error
        if len(_choices) >= _MOST_READY:
            _choices.clear()
        _choices[key] = kept
    if isinstance(kept, BackendError):
        raise kept
    for observer in tuple(observers.active):
        observer(call, kept)
    return kept


def ready(key: Any) -> Callable[..., Any] | None:
    """What serves calls of this signature, if one of it was remembered: what was checked and chosen for it holds. See signature.of."""
    known = _ready.get(key)
    return None if known is None else _observed(known)


def recent(op: str, tensors: tuple[Any, ...], rest: Any) -> Callable[..., Any] | None:
    """What serves calls with tensors like these, if ``remember_recent`` was told of one. rest: all else that the answer depends on."""
    signatures = _recent.get(op)
    known = None if signatures is None else signatures.find(tensors, rest)
    return None if known is None else _observed(known)


def remember_recent(key: Any, op: str, tensors: tuple[Any, ...], rest: Any) -> None:
    """A remembered key is found by its tensors too, from now on."""
    known = _ready.get(key)
    if known is not None:
        _recent.setdefault(op, Recent()).keep(tensors, rest, getattr(known[2], "any_address", False), known)


def _observed(known: tuple[Call, Choice, Callable[..., Any]]) -> Callable[..., Any]:
    if observers.active:
        for observer in tuple(observers.active):
            observer(known[0], known[1])
    return known[2]


def remember(key: Any, call: Call, choice: Choice, function: Callable[..., Any]) -> None:
    """From now on ``function``, made of that choice, serves every call of this signature, until ``forget``."""
    if len(_ready) >= _MOST_READY:
        _ready.clear()
        _recent.clear()
    _ready[key] = call, choice, function


def choose_fused(call: Call, backend: str | None = None) -> Choice | None:
    """Like choose, for an op that can also be composed of other ops: None when no backend that may serve it has it fused."""
    key = call, requested_backend(backend)
    if transforms.transformed():
        return None
    if key not in _fused:
        if len(_fused) >= _MOST_READY:
            _fused.clear()
        _fused[key] = _who_fuses(*key)
    name = _fused[key]
    return None if name is None else choose(call, name)


def _who_fuses(call: Call, requested: str | None) -> str | None:
    if requested:
        names = [name for name in (requested, _left_to(_entry(requested), call.op)) if name]
    else:
        names = [name for name, entry in REGISTRY.items() if meant_for(entry, call.device)]
    return next((name for name in names if verdict(_entry(name), call)[0]), None)


def choices_made() -> list[tuple[Call, Choice]]:
    """Every choice made so far in this process, for reports of which backend ran what."""
    return [(call, choice) for (call, _), choice in _choices.items() if isinstance(choice, Choice)]


def forget() -> None:
    """Drops every choice made so far: for tests, and after a self-check changed its verdict."""
    _choices.clear()
    _fused.clear()
    _ready.clear()
    _recent.clear()


def decided() -> dict[str, str]:
    """op -> the backends that serve it ("cpu", or "cpu, torch"), of every choice made since ``forget``: for reports."""
    served: dict[str, set[str]] = {}
    for (call, __), choice in _choices.items():
        if isinstance(choice, Choice):
            served.setdefault(call.op, set()).add(choice.backend)
    return {op: ", ".join(sorted(names)) for op, names in served.items()}


def verdict(entry: Entry, call: Call) -> tuple[bool, str]:
    """Can this backend serve this call here, and why (not). The self-check runs last, and only where all else says yes."""
    try:
        package = importlib.import_module(entry.module)
        rule = contract.broken_package(entry.name, package, call.op)
        ok, reason = (False, rule) if rule else contract.answer(entry.name, "available()", package.available())
        if not ok:
            return False, reason
        if call.op not in package.OPS:
            other = _left_to(entry, call.op)
            if other == "torch":
                return False, _("plain PyTorch is as fast here")
            if other:
                return False, _("left to backend {other!r}").format(other=other)
            return False, _("does not implement it")
        if entry.nowhere_else and call.device.type not in entry.devices:
            return False, not_for(entry, call.device)
        module = importlib.import_module(package.OPS[call.op])
        rule = contract.broken_module(entry.name, module, call.op)
        ok, reason = (False, rule) if rule else contract.answer(entry.name, "supports(call)", module.supports(call))
        if ok and entry.checked:
            return selfcheck.passed(entry.name, package, module, call)
        return ok, reason
    except Exception as error:  # noqa: BLE001 - whatever a broken library raises is the reason that is shown
        return False, f"{type(error).__name__}: {error}"


def variant(entry: Entry, call: Call) -> str:
    """The kernel, or plan of a kernel, that a call takes in a backend that implements its op; "" where it has one for all calls."""
    return selfcheck.variant(module_of(entry, call.op), call)


def module_of(entry: Entry, op: str) -> ModuleType:
    """The backend's module that has the op."""
    return importlib.import_module(importlib.import_module(entry.module).OPS[op])


def reject(backend: str, call: Call, reason: str) -> None:
    """The variant that the call takes there failed before it computed anything: in this process it serves no more calls."""
    entry = _entry(backend)
    selfcheck.reject(backend, importlib.import_module(entry.module), module_of(entry, call.op), call, reason)
    forget()


def implements(entry: Entry, op: str | None = None) -> bool:
    """Is the backend installed here and does it have this op (None: any); says nothing about whether it works."""
    try:
        package = importlib.import_module(entry.module)
        return package.available()[0] and (op is None or op in package.OPS)
    except Exception:  # noqa: BLE001 - verdict() reports the reason; here only the answer counts
        return False


def _left_to(entry: Entry, op: str, features: frozenset[str] = frozenset()) -> str:
    """The backend to which this one leaves an op, or an option of it, that it lacks on purpose, or ""; never of one that cannot be
    imported."""
    package = sys.modules.get(entry.module)
    if op in getattr(package, "LEFT_TO_TORCH", ()):
        return "torch"
    modules: dict[str, str] = getattr(package, "OPS", {op: ""})
    lacking = op not in modules or features & getattr(sys.modules.get(modules[op]), "LEFT_TO_REST", frozenset())
    return entry.rest if lacking else ""


def misses(entry: Entry, call: Call) -> bool:
    """Where this backend, meant for the device, does not serve the call, is something lost."""
    return bool(entry.devices) and meant_for(entry, call.device) and not _left_to(entry, call.op, call.features)


def meant_for(entry: Entry, device: torch.device) -> bool:
    """Is the backend one that an automatic choice asks on this device, and misses where it cannot serve."""
    here = not entry.devices or device.type in entry.devices
    return entry.automatic and here and (not entry.nvidia or is_nvidia(device))


def _entry(name: str) -> Entry:
    if name not in REGISTRY:
        raise BackendError(
            "usage",
            _("there is no backend {name!r}").format(name=name),
            fix=_("choose one of ") + ", ".join(REGISTRY),
        )
    return REGISTRY[name]


def not_for(entry: Entry, device: torch.device) -> str:
    """Why the backend is not meant for the device."""
    if device.type in entry.devices:
        return _("for NVIDIA GPUs, not for AMD's")
    return _("not for {device} tensors").format(device=device.type)


def _function(entry: Entry, call: Call, requested: str | None) -> Callable[..., Any]:
    """What serves the call. A kernel that no self-check compiled may still be refused when it is needed: then the variant is rejected, in
    this process, and the call goes to whoever serves it without that."""
    function: Callable[..., Any] = getattr(module_of(entry, call.op), call.op)
    if not entry.checked:
        return function

    @functools.wraps(function)
    def serve(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except NotCompiled as error:
            reject(entry.name, call, str(error))
            return choose(call, requested).function(*arguments, **options)

    return serve


def _decide(call: Call, requested: str | None) -> Choice:
    if requested:
        return _explicit(call, _entry(requested))
    rejected: list[tuple[str, str]] = []
    missed: list[tuple[str, str]] = []
    for entry in REGISTRY.values():
        if not entry.automatic:
            continue
        if not meant_for(entry, call.device):
            rejected.append((entry.name, not_for(entry, call.device)))
            continue
        ok, reason = verdict(entry, call)
        if not ok:
            rejected.append((entry.name, reason))
            if not _left_to(entry, call.op, call.features):
                missed.append((entry.name, reason))
            continue
        _say_what_was_missed(call, entry.name, missed)
        return Choice(entry.name, _function(entry, call, None), reason, tuple(rejected))
    raise BackendError(
        "backend",
        _("no backend can run {op} with {options}").format(op=call.op, options=_options(call)),
        why="; ".join(f"{name}: {reason}" for name, reason in rejected),
    )


def _explicit(call: Call, entry: Entry) -> Choice:
    ok, reason = verdict(entry, call)
    other = "" if ok else _left_to(entry, call.op, call.features)
    if other == "torch" or (other and implements(entry) and call.device.type in entry.devices):
        return _explicit(call, _entry(other))  # part of what that backend is
    if ok:
        return Choice(entry.name, _function(entry, call, entry.name), _("chosen explicitly"))
    others = [other.name for other in REGISTRY.values() if other is not entry and verdict(other, call)[0]]
    raise BackendError(
        "backend",
        _("backend {name!r} cannot run {op} here").format(name=entry.name, op=call.op),
        why=reason,
        fix=_("would work: ") + ", ".join(others),
    )


def _say_what_was_missed(call: Call, chosen: str, missed: list[tuple[str, str]]) -> None:
    # `official` is a bonus that nobody needs to be told about when another fast backend serves; torch is the slow last resort
    names: dict[str, list[str]] = {}
    for name, reason in missed:
        if name != "official":
            names.setdefault(reason, []).append(repr(name))
    for reason, those in names.items():
        warn_once(
            f"{call.op}:{those}:{chosen}:{reason}",
            _(
                "{op} runs on backend {chosen!r}, not {others}: {reason} "
                "(`anymamba backends` shows every choice, `anymamba doctor` how to mend it)"
            ).format(op=call.op, chosen=chosen, others=_(" or ").join(those), reason=reason),
        )


def _options(call: Call) -> str:
    sizes = [f"{name}={size}" for name, size in call.sizes]
    return ", ".join([str(call.device), str(call.dtype).removeprefix("torch."), *sorted(call.features), *sizes])

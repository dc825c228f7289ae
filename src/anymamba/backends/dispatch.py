"""Which backend serves a call, and why.

An explicit choice (``backend=``, ``use_backend``, ANYMAMBA_BACKEND, in that order) succeeds or raises. An automatic one takes
the first backend of the registry that is available, supports the call and has passed its self-check on this device; when that
is not the one the device deserves, it says so once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

from anymamba.backends import REGISTRY, Entry, observers, selfcheck, transforms
from anymamba.backends.call import Call
from anymamba.errors import BackendError, warn_once
from anymamba.language import say


@dataclass(frozen=True)
class Choice:
    """backend: its name. function: what to call. why: one sentence. rejected: (backend, reason) of those tried before it."""

    backend: str
    function: Callable[..., Any]
    why: str
    rejected: tuple[tuple[str, str], ...] = ()


_override: str | None = None
_fused: dict[tuple[Call, str | None], str | None] = {}
_choices: dict[tuple[Call, str | None], Choice | BackendError] = {}
_ready: dict[Any, tuple[Call, Choice, Callable[..., Any]]] = {}
_MOST_READY = 4096
"""Signatures of calls that are remembered: a length that grows with every call must not fill the memory."""


class use_backend:
    """Selects a backend for every following call, or for a ``with`` block: ``use_backend("torch")``; None: automatic again.

    The choice holds for the whole process, other threads included. Raises BackendError for an unknown name.
    """

    def __init__(self, name: str | None) -> None:
        global _override
        if name is not None:
            _entry(name)
        self._previous, _override = _override, name

    def __enter__(self) -> use_backend:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        global _override
        _override = self._previous


def requested_backend(backend: str | None = None) -> str | None:
    """The explicit choice in force, or None: the argument, then ``use_backend``, then ANYMAMBA_BACKEND."""
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
        _choices[key] = kept
    if isinstance(kept, BackendError):
        raise kept
    for observer in tuple(observers.active):
        observer(call, kept)
    return kept


def ready(key: Any) -> Callable[..., Any] | None:
    """What serves calls of this signature, if one of it was remembered: what was checked and chosen for it holds. See signature.of."""
    known = _ready.get(key)
    if known is None:
        return None
    for observer in tuple(observers.active):
        observer(known[0], known[1])
    return known[2]


def remember(key: Any, call: Call, choice: Choice, function: Callable[..., Any]) -> None:
    """From now on ``function``, made of that choice, serves every call of this signature, until ``forget``."""
    if len(_ready) >= _MOST_READY:
        _ready.clear()
    _ready[key] = call, choice, function


def choose_fused(call: Call, backend: str | None = None) -> Choice | None:
    """Like choose, for an op that can also be composed of other ops: None when no backend that may serve it has it fused."""
    key = call, requested_backend(backend)
    if transforms.transformed():
        return None
    if key not in _fused:
        _fused[key] = _who_fuses(*key)
    name = _fused[key]
    return None if name is None else choose(call, name)


def _who_fuses(call: Call, requested: str | None) -> str | None:
    names = [requested] if requested else [name for name, entry in REGISTRY.items() if entry.automatic]
    for name in names:
        entry = _entry(name)
        if (requested or _meant_for(entry, call)) and verdict(entry, call)[0]:
            return name
    return None


def choices_made() -> list[tuple[Call, Choice]]:
    """Every choice made so far in this process, for reports of which backend ran what."""
    return [(call, choice) for (call, _), choice in _choices.items() if isinstance(choice, Choice)]


def forget() -> None:
    """Drops every choice made so far: for tests, and after a self-check changed its verdict."""
    _choices.clear()
    _fused.clear()
    _ready.clear()


def decided() -> dict[str, str]:
    """op -> the backends that serve it ("cpu", or "cpu, torch"), of every choice made since ``forget``: for reports."""
    served: dict[str, set[str]] = {}
    for (call, _), choice in _choices.items():
        if isinstance(choice, Choice):
            served.setdefault(call.op, set()).add(choice.backend)
    return {op: ", ".join(sorted(names)) for op, names in served.items()}


def verdict(entry: Entry, call: Call) -> tuple[bool, str]:
    """Can this backend serve this call here, and why (not). The self-check runs last, and only where all else says yes."""
    try:
        package = importlib.import_module(entry.module)
        ok, reason = package.available()
        if not ok:
            return False, reason
        if call.op not in package.OPS:
            if _left_to_torch(entry, call.op):
                return False, say("plain PyTorch is as fast here", "此处纯 PyTorch 同样快")
            return False, say("does not implement it", "未实现该算子")
        if entry.nowhere_else and call.device.type not in entry.devices:
            return False, _not_for(call)
        module = importlib.import_module(package.OPS[call.op])
        ok, reason = module.supports(call)
        if ok and entry.checked:
            return selfcheck.passed(entry.name, package, module, call)
        return ok, reason
    except Exception as error:  # noqa: BLE001 - whatever a broken library raises is the reason that is shown
        return False, f"{type(error).__name__}: {error}"


def variant(entry: Entry, call: Call) -> str:
    """The kernel, or plan of a kernel, that a call takes in a backend that implements its op; "" where it has one for all calls."""
    package = importlib.import_module(entry.module)
    return selfcheck.variant(importlib.import_module(package.OPS[call.op]), call)


def implements(entry: Entry, op: str) -> bool:
    """Is the backend installed here and does it have this op; says nothing about whether it works."""
    try:
        package = importlib.import_module(entry.module)
        return package.available()[0] and op in package.OPS
    except Exception:  # noqa: BLE001 - verdict() reports the reason; here only the answer counts
        return False


def _left_to_torch(entry: Entry, op: str) -> bool:
    """Does the backend lack this op on purpose; never of one that cannot be imported."""
    return op in getattr(sys.modules.get(entry.module), "LEFT_TO_TORCH", ())


def _entry(name: str) -> Entry:
    if name not in REGISTRY:
        raise BackendError(
            "usage",
            say(f"there is no backend {name!r}", f"没有名为 {name!r} 的后端"),
            fix=say("choose one of ", "请选择：") + ", ".join(REGISTRY),
        )
    return REGISTRY[name]


def _not_for(call: Call) -> str:
    return say(f"not for {call.device.type} tensors", f"不用于 {call.device.type} 张量")


def _meant_for(entry: Entry, call: Call) -> bool:
    return entry.automatic and (not entry.devices or call.device.type in entry.devices)


def _function(entry: Entry, op: str) -> Callable[..., Any]:
    package: ModuleType = importlib.import_module(entry.module)
    return getattr(importlib.import_module(package.OPS[op]), op)


def _decide(call: Call, requested: str | None) -> Choice:
    if requested:
        return _explicit(call, _entry(requested))
    rejected: list[tuple[str, str]] = []
    missed: list[tuple[str, str]] = []
    for entry in REGISTRY.values():
        if not entry.automatic:
            continue
        if not _meant_for(entry, call):
            rejected.append((entry.name, _not_for(call)))
            continue
        ok, reason = verdict(entry, call)
        if not ok:
            rejected.append((entry.name, reason))
            if not _left_to_torch(entry, call.op):
                missed.append((entry.name, reason))
            continue
        _say_what_was_missed(call, entry.name, missed)
        return Choice(entry.name, _function(entry, call.op), reason, tuple(rejected))
    raise BackendError(
        "backend",
        say(f"no backend can run {call.op} with {_options(call)}", f"没有后端可以运行 {call.op}（{_options(call)}）"),
        why="; ".join(f"{name}: {reason}" for name, reason in rejected),
    )


def _explicit(call: Call, entry: Entry) -> Choice:
    ok, reason = verdict(entry, call)
    if not ok and _left_to_torch(entry, call.op):
        return _explicit(call, _entry("torch"))  # part of what that backend is
    if ok:
        return Choice(entry.name, _function(entry, call.op), say("chosen explicitly", "由用户指定"))
    others = [other.name for other in REGISTRY.values() if other is not entry and verdict(other, call)[0]]
    raise BackendError(
        "backend",
        say(f"backend {entry.name!r} cannot run {call.op} here", f"后端 {entry.name!r} 无法在此运行 {call.op}"),
        why=reason,
        fix=say("would work: ", "可用的后端：") + ", ".join(others),
    )


def _say_what_was_missed(call: Call, chosen: str, missed: list[tuple[str, str]]) -> None:
    # `official` is a bonus that nobody needs to be told about when another fast backend serves; torch is the slow last resort
    for name, reason in missed:
        if name == "official":
            continue
        warn_once(
            f"{call.op}:{name}:{chosen}:{reason}",
            say(
                f"{call.op} runs on backend {chosen!r}, not {name!r}: {reason} "
                "(`anymamba backends` shows every choice, `anymamba doctor` how to mend it)",
                f"{call.op} 使用后端 {chosen!r} 而非 {name!r}：{reason}"
                "（`anymamba backends` 查看所有选择，`anymamba doctor` 给出修复办法）",
            ),
        )


def _options(call: Call) -> str:
    sizes = [f"{name}={size}" for name, size in call.sizes]
    return ", ".join([str(call.device), str(call.dtype).removeprefix("torch."), *sorted(call.features), *sizes])

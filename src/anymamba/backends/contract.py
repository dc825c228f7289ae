"""The contract of a backend (see this package's docstring): one that breaks it is named with the rule, wherever it is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from anymamba.backends.opspec import SPECS
from anymamba.language import _


def broken_package(name: str, package: ModuleType, op: str) -> str:
    """The first rule that a backend's package breaks, as a sentence with its name; empty when it keeps all. op: that is asked for."""
    return next((_sentence(name, rule) for holds, rule in _package_rules(package, op) if not holds), "")


def broken_module(name: str, module: ModuleType, op: str) -> str:
    """The same of its module of an op."""
    return next((_sentence(name, rule) for holds, rule in _module_rules(module, op) if not holds), "")


def answer(name: str, function: str, value: Any) -> tuple[bool, str]:
    """What ``available()`` or ``supports(call)`` returned: (bool, reason); anything else counts as no, with the rule."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], bool) and isinstance(value[1], str):
        return value
    return False, _sentence(name, _("{function} returns (bool, reason)").format(function=function))


def _sentence(name: str, rule: str) -> str:
    return _("backend {name!r} breaks the contract of backends: ").format(name=name) + rule


def _package_rules(package: ModuleType, op: str) -> Iterator[tuple[bool, str]]:
    """(whether it is kept, the rule). Later rules build on earlier ones."""
    ops: Any = getattr(package, "OPS", None)
    yield isinstance(ops, dict), _("the package has OPS, op -> its module")
    unknown = [one for one in ops if one not in SPECS] if op in SPECS else []
    op_names = ", ".join(sorted(SPECS))
    yield not unknown, _("OPS names ops that exist ({known}), not {unknown}").format(known=op_names, unknown=unknown)
    for function in ("available", "versions"):
        yield callable(getattr(package, function, None)), _("the package has {function}()").format(function=function)


def _module_rules(module: ModuleType, op: str) -> Iterator[tuple[bool, str]]:
    own, where = getattr(module, op, None), module.__name__
    yield callable(own), _("{where} has a function {op}").format(where=where, op=op)
    yield callable(getattr(module, "supports", None)), _("{where} has supports(call)").format(where=where)
    missing = _missing(op, own)
    yield not missing, _("{op} takes the op's parameters, {names} too").format(op=op, names=missing)


def _missing(op: str, function: Any) -> str:
    """Parameters of the op, by name, that the backend's function has no place for."""
    spec = SPECS.get(op)
    try:
        own = inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled code may not tell
        return ""
    if spec is None or any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in own.values()):
        return ""
    parameters = [name for name in inspect.signature(spec.function).parameters if name not in ("backend", *spec.beyond_upstream)]
    return ", ".join(name for name in parameters if name not in own)

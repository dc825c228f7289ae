"""The contract of a backend (see this package's docstring): one that breaks it is named with the rule, wherever it is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from anymamba.backends.opspec import SPECS
from anymamba.language import say


def broken_package(name: str, package: ModuleType, op: str) -> str:
    """The first rule that a backend's package breaks, as a sentence with its name; empty when it keeps all. op: that is asked for."""
    return next((_sentence(name, rule) for kept, rule in _package_rules(package, op) if not kept), "")


def broken_module(name: str, module: ModuleType, op: str) -> str:
    """The same of its module of an op."""
    return next((_sentence(name, rule) for kept, rule in _module_rules(module, op) if not kept), "")


def answer(name: str, function: str, value: Any) -> tuple[bool, str]:
    """What ``available()`` or ``supports(call)`` returned: (bool, reason); anything else counts as no, with the rule."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], bool) and isinstance(value[1], str):
        return value
    return False, _sentence(name, say(f"{function} returns (bool, reason)", f"{function} 返回 (bool, 原因)"))


def _sentence(name: str, rule: str) -> str:
    return say(f"backend {name!r} breaks the contract of backends: ", f"后端 {name!r} 违反了后端约定：") + rule


def _package_rules(package: ModuleType, op: str) -> Iterator[tuple[bool, str]]:
    """(whether it is kept, the rule). Later rules build on earlier ones."""
    ops: Any = getattr(package, "OPS", None)
    yield isinstance(ops, dict), say("the package has OPS, op -> its module", "包中有 OPS：算子 -> 模块")
    unknown = [one for one in ops if one not in SPECS] if op in SPECS else []
    known = ", ".join(sorted(SPECS))
    yield not unknown, say(f"OPS names ops that exist ({known}), not {unknown}", f"OPS 只含已有的算子（{known}），不含 {unknown}")
    for function in ("available", "versions"):
        yield callable(getattr(package, function, None)), say(f"the package has {function}()", f"包中有 {function}()")


def _module_rules(module: ModuleType, op: str) -> Iterator[tuple[bool, str]]:
    own, where = getattr(module, op, None), module.__name__
    yield callable(own), say(f"{where} has a function {op}", f"{where} 中有函数 {op}")
    yield callable(getattr(module, "supports", None)), say(f"{where} has supports(call)", f"{where} 中有 supports(call)")
    missing = _missing(op, own)
    yield not missing, say(f"{op} takes the op's parameters, {missing} too", f"{op} 接受算子的全部参数，包括 {missing}")


def _missing(op: str, function: Any) -> str:
    """Parameters of the op, by name, that the backend's function has no place for."""
    spec = SPECS.get(op)
    try:
        own = inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled code may not tell
        return ""
    if spec is None or any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in own.values()):
        return ""
    wanted = [name for name in inspect.signature(spec.function).parameters if name not in ("backend", *spec.beyond_upstream)]
    return ", ".join(name for name in wanted if name not in own)

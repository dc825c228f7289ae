"""Backends made for a test: a package in sys.modules and a line of the registry, both gone after the test."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from anymamba.backends import REGISTRY, Entry, dispatch, selfcheck


def install(
    monkeypatch: pytest.MonkeyPatch, name: str, functions: dict[str, Callable[..., Any]], *, available: tuple[bool, str] = (True, "here"),
    supports: Callable[[Any], tuple[bool, str]] = lambda call: (True, "can"), checked: bool = False, automatic: bool = True,
    devices: tuple[str, ...] = (), variant: Callable[[Any], str] | None = None,
) -> types.ModuleType:  # fmt: skip
    """A backend of that name, preferred over all others."""
    module_name = f"fake_backend_{name}"
    package = types.ModuleType(module_name)
    package.__file__ = __file__
    package.OPS = dict.fromkeys(functions, module_name)  # type: ignore[attr-defined]
    package.available = lambda: available  # type: ignore[attr-defined]
    package.versions = lambda: "1"  # type: ignore[attr-defined]
    package.supports = supports  # type: ignore[attr-defined]
    if variant is not None:
        package.variant = variant  # type: ignore[attr-defined]
    for op, function in functions.items():
        setattr(package, op, function)
    monkeypatch.setitem(sys.modules, module_name, package)
    entry = Entry(name, module_name, devices=devices, checked=checked, automatic=automatic)
    before = dict(REGISTRY)
    only_ours = {name: entry, **before}
    monkeypatch.setattr(dispatch, "REGISTRY", only_ours)
    selfcheck._digests.pop(module_name, None)
    dispatch.forget()
    return package

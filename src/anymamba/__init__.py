"""Mamba on any machine. Importing this package imports neither torch nor a kernel library: names load when first used."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_WHERE = {
    "load": "anymamba.models.hub",
    "use_backend": "anymamba.backends.dispatch",
    "choose": "anymamba.backends.dispatch",
    "AnymambaError": "anymamba.errors",
}
_SUBPACKAGES = ("ops", "reference", "backends", "models", "training", "generation", "numerics", "dropin")

__all__ = ["__version__", *_WHERE, *_SUBPACKAGES]  # noqa: PLE0604 - the keys are strings


def __getattr__(name: str) -> object:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _SUBPACKAGES:
        return importlib.import_module("anymamba." + name)
    raise AttributeError("module 'anymamba' has no attribute {!r}".format(name))


def __dir__() -> list:
    return sorted(__all__)

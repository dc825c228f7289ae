"""Names that load when first used, so that importing a package stays quick and pulls in no torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def lazy_names(package: str, where: dict[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package whose names stand in other modules.

    where: name -> the module that has it; the module itself if it ends in the name. Type checkers see nothing of this: the
    package imports the same names under ``TYPE_CHECKING``.
    """

    def get(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(where[name])
        return module if where[name] == package + "." + name else getattr(module, name)

    return get, lambda: sorted(where)

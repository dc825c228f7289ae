"""Names that a module of upstream has because it imported them, and that other people's code imports from there."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from typing import Any


def borrowed(module: str, statements: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of that module: each name of the import statements is imported when somebody asks for it.

    So einops is needed only by those who take ``rearrange`` from mamba_ssm. A name whose source is not installed raises
    AttributeError with the reason, and ``from module import name`` therefore ImportError.
    """
    package = module.rpartition(".")[0]
    sources: dict[str, tuple[str, str | None]] = {}
    for statement in ast.parse(statements).body:
        assert isinstance(statement, (ast.Import, ast.ImportFrom))
        for alias in statement.names:
            if isinstance(statement, ast.Import):
                sources[alias.asname or alias.name] = (alias.name, None)
            else:
                sources[alias.asname or alias.name] = ("." * statement.level + (statement.module or ""), alias.name)

    def __getattr__(name: str) -> Any:
        if name not in sources:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        source, attribute = sources[name]
        try:
            borrowed_module = importlib.import_module(source, package)
        except ImportError as error:
            raise AttributeError(f"module {module!r} takes {name!r} from {source}: {error}") from error
        return borrowed_module if attribute is None else getattr(borrowed_module, attribute)

    return __getattr__

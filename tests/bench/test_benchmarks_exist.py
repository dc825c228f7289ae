"""What the scripts in benchmarks/ call stands where they say. Most run on a GPU alone, where a moved kernel would show too late."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("triton")

SCRIPTS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))


def imported(tree: ast.AST) -> Iterator[tuple[str, str, str]]:
    """(name in the script, module, name there) of every import from anymamba, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "anymamba":
            yield from ((alias.asname or alias.name, str(node.module), alias.name) for alias in node.names)


def there(module: str, name: str) -> object:
    whole = importlib.import_module(module)
    return getattr(whole, name) if hasattr(whole, name) else importlib.import_module(f"{module}.{name}")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_names_of_ours_exist(script: Path) -> None:
    functions = [node for node in ast.parse(script.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]
    whole = ast.parse(script.read_text("utf-8"))
    top = ast.Module([node for node in whole.body if not isinstance(node, ast.FunctionDef)], [])
    everywhere = {local: there(module, name) for local, module, name in imported(top)}
    for function in functions:
        known = {**everywhere, **{local: there(module, name) for local, module, name in imported(function)}}
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and isinstance(known.get(node.value.id), ModuleType):
                assert hasattr(known[node.value.id], node.attr), f"{script.name}:{node.lineno}: {node.value.id}.{node.attr}"

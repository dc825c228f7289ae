"""Writes down the signatures of mamba_ssm and causal_conv1d from their sources, as facts for tests/dropin/test_signatures.py.

    python scripts/record_upstream_signatures.py MAMBA_SOURCE CAUSAL_CONV1D_SOURCE > tests/dropin/upstream_signatures.json

Nothing is imported: the files are parsed. Kernels (functions with a decorator of Triton) are left out, and so are
the files that hold nothing but parts of the Mamba-3 kernels.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

PARTS = re.compile(r"mamba3_(siso|mimo)_(fwd|bwd|utils)")


def signature(function: ast.FunctionDef) -> list[list[str | None]]:
    """[kind, name, default as source or None] of each parameter."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    found: list[list[str | None]] = [["", a.arg, d and ast.unparse(d)] for a, d in zip(positional, defaults)]
    if arguments.vararg:
        found.append(["*", arguments.vararg.arg, None])
    found += [["keyword", a.arg, d and ast.unparse(d)] for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults)]
    if arguments.kwarg:
        found.append(["**", arguments.kwarg.arg, None])
    return found


def is_kernel(function: ast.FunctionDef) -> bool:
    return any("triton" in ast.unparse(decorator) or "heuristics" in ast.unparse(decorator) for decorator in function.decorator_list)


def of_file(path: Path) -> dict[str, list[list[str | None]]]:
    found = {}
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not is_kernel(node):
            found[node.name] = signature(node)
        elif isinstance(node, ast.ClassDef):
            methods = [child for child in node.body if isinstance(child, ast.FunctionDef)]
            found.update({f"{node.name}.{method.name}": signature(method) for method in methods})
    return found


def names_of(body: list[ast.stmt]) -> set[str]:
    """The names that these statements bind, those inside try and if included."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found |= set() if is_kernel(node) else {node.name}
        elif isinstance(node, ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.Try):
            found |= names_of(node.body).union(*(names_of(handler.body) for handler in node.handlers))
        elif isinstance(node, ast.If):
            found |= names_of(node.body) | names_of(node.orelse)
    return found


def record_names(trees: list[str]) -> None:
    recorded = {}
    for tree, package in zip(map(Path, trees), ("mamba_ssm", "causal_conv1d")):
        for path in sorted((tree / package).rglob("*.py")):
            module = ".".join(path.relative_to(tree).with_suffix("").parts).removesuffix(".__init__")
            recorded[module] = sorted(names_of(ast.parse(path.read_text("utf-8")).body))
    rows = [f"{json.dumps(module)}: {json.dumps(names)}" for module, names in recorded.items()]
    print("{\n" + ",\n".join(rows) + "\n}")


def main(trees: list[str]) -> None:
    recorded = {}
    for tree, package in zip(map(Path, trees), ("mamba_ssm", "causal_conv1d")):
        for path in sorted((tree / package).rglob("*.py")):
            module = ".".join(path.relative_to(tree).with_suffix("").parts).removesuffix(".__init__")
            if not PARTS.search(module) and (found := of_file(path)):
                recorded[module] = found
    modules = []
    for module, functions in recorded.items():
        lines = [f"  {json.dumps(name)}: {json.dumps(parameters)}" for name, parameters in functions.items()]
        modules.append(f"{json.dumps(module)}: {{\n" + ",\n".join(lines) + "\n}")
    print("{\n" + ",\n".join(modules) + "\n}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--names"]:
        record_names(sys.argv[2:])
    else:
        main(sys.argv[1:])

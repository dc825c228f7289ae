"""Writes down the signatures of mamba_ssm and causal_conv1d from their sources, as facts for tests/dropin/test_signatures.py.

    python scripts/record_upstream_signatures.py MAMBA_SOURCE CAUSAL_CONV1D_SOURCE > tests/dropin/upstream_signatures.json

Nothing is imported: the files are parsed. Kernels (functions with a decorator of Triton) and the Mamba-3 files are left out.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path


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


def main(trees: list[str]) -> None:
    recorded = {}
    for tree, package in zip(map(Path, trees), ("mamba_ssm", "causal_conv1d")):
        for path in sorted((tree / package).rglob("*.py")):
            module = ".".join(path.relative_to(tree).with_suffix("").parts).removesuffix(".__init__")
            if "mamba3" not in module and (found := of_file(path)):
                recorded[module] = found
    modules = []
    for module, functions in recorded.items():
        lines = [f"  {json.dumps(name)}: {json.dumps(parameters)}" for name, parameters in functions.items()]
        modules.append(f"{json.dumps(module)}: {{\n" + ",\n".join(lines) + "\n}")
    print("{\n" + ",\n".join(modules) + "\n}")


if __name__ == "__main__":
    main(sys.argv[1:])

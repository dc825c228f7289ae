"""The house rules that a machine can hold: import direction, file sizes, both languages, nothing imported too early."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "anymamba"

LAYERS = [
    {"reference"},
    {"backends"},
    {"ops"},
    {"models"},
    {"training", "generation", "numerics", "installer", "evaluation", "dropin", "bench"},
    {"cli"},
]
"""From the bottom up: a package may import what stands below it, and its own layer where named in SIBLINGS."""

SIBLINGS = {
    ("training", "generation"), ("evaluation", "training"), ("numerics", "generation"), ("numerics", "evaluation"),
    ("bench", "training"), ("bench", "generation"), ("evaluation", "generation"),
}  # fmt: skip
ROOT_FILES = {"errors", "language", "catalog", "lazy", "nearest", "cachefolder", "announce", "printable", "version", "__init__", "__main__"}


def python_files() -> list[Path]:
    return sorted(path for top in ("src", "tests", "benchmarks", "scripts") for path in (ROOT / top).rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    """What the file imports of ours, at the top, inside functions, for type checkers and by import_module("...")."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            names.update(part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str))
    return {name for name in names if name.split(".")[0] == "anymamba"}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def needs(path: Path, modules: set[str]) -> set[str]:
    """The modules among ``modules`` that the file names: in imports at the top, in functions and for type checkers, and in
    import_module("...") wherever its argument is written out."""
    result: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            result.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            # a package is needed itself only where a name of its own is taken from it
            result |= named if named <= modules else named | {node.module}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            result.update(part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str))
    return (result & modules) - {module_of(path)}


def test_no_circles() -> None:
    files = {module_of(path): path for path in PACKAGE.rglob("*.py") if "packages" not in path.parts}
    arrows = {module: needs(path, set(files)) for module, path in files.items()}
    # what nothing needs, or what needs nothing more, is in no circle; what is left when all that is taken away is
    while True:
        needed = set().union(*arrows.values())
        outside = {module for module, targets in arrows.items() if not targets or module not in needed}
        if not outside:
            break
        arrows = {module: targets - outside for module, targets in arrows.items() if module not in outside}
    assert arrows == {}, "\n".join(f"{module} -> {sorted(targets)}" for module, targets in sorted(arrows.items()))


MOST_FILES = 16
FLAT_BY_NATURE = {
    "cli": (32, "a file a verb, its parts beside it"),
    "ops": (18, "a file an op"), "reference": (20, "a file an op"), "models": (32, "a file a family"),
    "models/trunk": (26, "a file a part of a model"), "backends": (24, "the dispatcher"),
    "backends/cuda": (22, "the launches"),
    "doctor": (24, "the recogniser; machine, rules, report and compat have folders"),
}  # fmt: skip


def test_folders_are_small() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    counts = {folder.relative_to(PACKAGE).as_posix(): len(list(folder.glob("*.py"))) for folder in folders}
    assert {name: count for name, count in counts.items() if count > FLAT_BY_NATURE.get(name, (MOST_FILES, ""))[0]} == {}


def test_a_call_of_an_op_goes_from_the_public_function_to_a_gradient() -> None:
    """The whole road once, so that two changes that fit as text and not in meaning are seen where structure is checked."""
    import torch

    from anymamba import ops

    inputs = [torch.randn(1, 8, 6), torch.rand(1, 8, 6), -torch.rand(8, 4), torch.randn(1, 4, 6), torch.randn(1, 4, 6)]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    results = []
    for backend in (None, "reference"):
        y = ops.selective_scan_fn(*inputs, delta_softplus=True, backend=backend)
        results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


def layer_of(package: str) -> int:
    return next(index for index, packages in enumerate(LAYERS) if package in packages)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    package = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in imported_modules(path):
        parts = module.split(".")
        target = parts[1] if len(parts) > 1 else "__init__"
        if target not in {name for layer in LAYERS for name in layer} | {"doctor"} or target == package:
            continue
        assert package != "reference", f"the reference imports {module}"
        if package == "doctor":
            pytest.fail(f"the doctor must run alone, but {path.name} imports {module}")
        if package in ROOT_FILES or target == "doctor":
            assert package in ("cli", "installer", "__main__", "__init__"), f"{path.name} imports {module}"
            continue
        lower = layer_of(target) < layer_of(package)
        assert lower or (package, target) in SIBLINGS, (
            f"{package} ({path.name}) imports {module}, which stands above or beside it"
        )


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_500_lines(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 500


PARTICIPLES = frozenset(
    ("found", "kept", "given", "told", "wanted", "made", "taken", "held", "said", "named", "seen", "apart", "asked", "mine")
)
MOST_PARTICIPLES = {"doctor": 150, "": 150}
"""As names of variables, which then do not say what the thing is: in the doctor, and in all the rest. May fall, not grow."""


def test_names_say_what_a_thing_is() -> None:
    counts = dict.fromkeys(MOST_PARTICIPLES, 0)
    for path in PACKAGE.rglob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Name)]
        named = sum(isinstance(node.ctx, ast.Store) and node.id in PARTICIPLES for node in nodes)
        counts["doctor" if "doctor" in path.parts else ""] += named
    assert all(count <= MOST_PARTICIPLES[part] for part, count in counts.items()), counts


def test_one_class_is_called_plan_and_one_step() -> None:
    names = [
        node.name
        for path in PACKAGE.rglob("*.py")
        if "doctor" not in path.parts
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    assert names.count("Plan") == names.count("Step") == 1


def test_what_is_cached_cannot_be_changed_by_who_gets_it() -> None:
    """A list that a cached function returned once is the same list for every caller after."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.returns is not None:
                caches = [ast.unparse(decorator) for decorator in node.decorator_list if "cache" in ast.unparse(decorator)]
                kind = ast.unparse(node.returns).split("[")[0].lower()
                assert not caches or kind not in ("list", "dict", "set"), f"{path.relative_to(PACKAGE)}: {node.name} -> {kind}"


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_function_says_its_types(path: Path) -> None:
    """Tests and benchmarks too; kernels of Triton are a language of their own."""
    functions = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        if any("jit" in ast.unparse(decorator) for decorator in function.decorator_list) or function.name == "__getattr__":
            continue
        arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
        untyped = [argument.arg for argument in arguments if argument.annotation is None and argument.arg not in ("self", "cls")]
        answers = function.returns is not None or function.name == "__init__"
        assert answers and not untyped, f"line {function.lineno}: {function.name} {untyped}"


def test_no_vague_file_names() -> None:
    vague = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    # the drop-in mirrors upstream's tree, which has a package named utils
    assert [path for path in PACKAGE.rglob("*.py") if path.name in vague and "dropin" not in path.parts] == []


def test_docs_exist_in_both_languages() -> None:
    english, chinese = (
        {path.relative_to(ROOT / "docs" / lang) for path in (ROOT / "docs" / lang).rglob("*.*")}
        for lang in ("en", "zh")
    )
    assert english == chinese
    assert english, "there are no docs"


def test_importing_the_package_is_quick_and_pulls_in_no_torch() -> None:
    code = "import sys, anymamba; print([m for m in ('torch', 'triton', 'llvmlite', 'numpy') if m in sys.modules])"
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert time.perf_counter() - started < 1.0  # 0.02 s on a quiet machine; the limit only catches an import of torch


def test_help_is_quick_and_pulls_in_no_torch() -> None:
    code = (
        "import sys\nfrom anymamba.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules and 'rich' not in sys.modules, 'imported too early'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "backends" in done.stdout


def test_every_verb_has_its_file_and_both_functions() -> None:
    from anymamba.cli import VERBS

    for verb in VERBS:
        tree = ast.parse((PACKAGE / "cli" / f"{verb}.py").read_text("utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert {"add_arguments", "run"} <= names, verb


def test_every_module_imports() -> None:
    """litgpt's import-all job: no module breaks when an optional library is missing or there is no GPU."""
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "__main__.py"
    ]
    code = f"""
import importlib
from anymamba.errors import AnymambaError
for name in {modules!r}:
    try:
        importlib.import_module(name)
    except AnymambaError as error:  # the class for an optional framework says which extra it needs
        assert error.code == "dependency" and error.fix, name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

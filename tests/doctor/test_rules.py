"""What every rule must have, and that docs and --explain are the rules' own text."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from anymamba.doctor import blanks, explain, rules
from anymamba.doctor.present import TYPICAL, fill
from anymamba.doctor.rule import Rule
from anymamba.doctor.shells import to_powershell

ROOT = Path(__file__).resolve().parents[2]
RULES = rules.all_rules()
# from the typical environment, and what matches alone can fill
KNOWN = dict(
    blanks.values(TYPICAL),
    nvcc_torch="2.8.0",
    nvcc_cuda="cu128",
    driver_torch="2.5.1",
    driver_cuda="cu121",
    when_no_wheel_is_known="",
    kernels="VMamba",
    only_pascal="",
    only_turing="",
    only_blackwell="",
    from_volta_on="",
)
CHINESE = re.compile(r"[\u4e00-\u9fff]")
# causes that users name, each with the id that other tools and the documentation refer to
# fmt: off
NAMED = [
    "nvcc-missing", "build-isolation-cpu-torch", "build-isolation-wrong-torch", "cpu-torch-in-env",
    "torch-not-in-build-env", "wheel-download-failed", "no-prebuilt-wheel", "cuda-major-mismatch",
    "gpu-arch-not-compiled", "nvcc-unsupported-gpu-architecture", "msvc-missing", "triton-missing-on-windows",
    "windows-long-path", "wsl-driver-missing", "abi-undefined-symbol", "keep-cuda-build-opt-in",
    "broken-package-reported-missing", "transformers-fast-path-warning", "ninja-oom-killed", "log-truncated",
    "unknown",
]
# fmt: on


def test_enough_rules_with_unique_names() -> None:
    assert len(RULES) >= 45
    assert len({rule.code for rule in RULES}) == len({rule.cause for rule in RULES}) == len(RULES)
    assert set(NAMED) <= {rule.cause for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.cause)
def test_rule_is_complete(rule: Rule) -> None:
    assert re.fullmatch(r"AM\d{3}", rule.code)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+|unknown", rule.cause)
    files = [path.stem for path in (ROOT / "src" / "anymamba" / "doctor" / "rules").glob("*/*.py")]
    assert files.count(rule.cause.replace("-", "_")) == 1, "a rule's file is named after its cause"
    texts = [rule.title, rule.why, rule.needed, *(remedy.text for remedy in rule.remedies)]
    for text in texts:
        assert text.en and not CHINESE.search(text.en)
        assert CHINESE.search(text.zh), text.zh
    assert rule.remedies
    assert rule.signatures or rule.log is not None
    known = {other.cause for other in RULES}
    assert set(rule.explains) <= known - {rule.cause}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.cause)
def test_no_blank_is_left_open(rule: Rule) -> None:
    for remedy in rule.remedies:
        for command in (*remedy.commands, *(remedy.powershell or ())):
            assert not re.search(r"\{[a-z_]+\}", fill(command, KNOWN)), command


@pytest.mark.parametrize("language", ["en", "zh"])
def test_docs_are_the_rules(language: str) -> None:
    """Run `python -m anymamba.doctor.explain docs` after a change of a rule."""
    folder = ROOT / "docs" / language / "errors"
    pages = explain.pages(language)
    assert {path.name for path in folder.glob("*.md")} == set(pages)
    changed = [name for name, text in pages.items() if (folder / name).read_text("utf-8") != text]
    assert changed == []


@pytest.mark.parametrize(
    ("bash", "powershell"),
    [
        ("pip install x", "pip install x"),
        ("MAX_JOBS=2 pip install x", '$env:MAX_JOBS="2"; pip install x'),
        ("A=1 B='x y' pip install x && nvcc -V", '$env:A="1"; $env:B="x y"; pip install x; nvcc -V'),
        ("export CUDA_HOME=$CONDA_PREFIX", '$env:CUDA_HOME="$env:CONDA_PREFIX"'),
    ],
)
def test_powershell(bash: str, powershell: str) -> None:
    assert to_powershell(bash) == powershell


def doctor_files() -> list[Path]:
    package = ROOT / "src" / "anymamba"
    root = ("__init__", "__main__", "errors", "language", "catalog", "lazy", "nearest", "cli/__init__", "cli/parser", "cli/doctor")
    single = [package / f"{name}.py" for name in root]
    return single + sorted((package / "doctor").rglob("*.py"))


def test_runs_on_python_38_with_the_standard_library() -> None:
    """Syntax of Python 3.8, and imports of the standard library and of the few files of ours that need nothing else."""
    names = ("", ".errors", ".language", ".catalog", ".lazy", ".nearest", ".cli", ".cli.parser")
    allowed = {"anymamba" + name for name in names}
    for path in doctor_files():
        tree = ast.parse(path.read_text("utf-8"), str(path), feature_version=(3, 8))
        for_type_checkers = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if node in for_type_checkers:
                continue
            imported = []
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                imported = [node.module or ""]
            for name in imported:
                ours = name in allowed or name.startswith("anymamba.doctor")
                assert ours or name.split(".")[0] in sys.stdlib_module_names, f"{path}: {name}"

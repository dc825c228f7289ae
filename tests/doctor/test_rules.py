"""What every rule must have, and that docs and --explain are the rules' own text."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from anymamba.doctor import blanks, explain, page, rules
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


def texts(prose: page.Page) -> list[str]:
    return [prose.title, prose.why, prose.needed, *(remedy.text for remedy in prose.remedies)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.cause)
def test_rule_is_complete(rule: Rule) -> None:
    assert re.fullmatch(r"AM\d{3}", rule.code)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+|unknown", rule.cause)
    folders = [path.name for path in (ROOT / "src" / "anymamba" / "doctor" / "rules").glob("*/*/")]
    assert folders.count(rule.cause.replace("-", "_")) == 1, "a rule's folder is named after its cause"
    english, chinese = (page.read(rule.package, language) for language in ("en", "zh"))
    assert english.heading == chinese.heading == f"{rule.code} {rule.cause}"
    for text, translated in zip(texts(english), texts(chinese), strict=True):
        assert text and not CHINESE.search(text)
        assert CHINESE.search(translated), translated
    assert english.remedies
    # what is typed, and where, is the same in both languages
    assert [remedy._replace(text="") for remedy in english.remedies] == [remedy._replace(text="") for remedy in chinese.remedies]
    assert (english.lines, english.links) == (chinese.lines, chinese.links)
    assert rule.signatures or rule.log is not None
    known = {other.cause for other in RULES}
    assert set(rule.explains) <= known - {rule.cause}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.cause)
def test_no_blank_is_left_open(rule: Rule) -> None:
    for remedy in rule.page().remedies:
        for command in (*remedy.commands, *(remedy.powershell or ())):
            assert not re.search(r"\{[a-z_]+\}", fill(command, KNOWN)), command


@pytest.mark.parametrize("language", ["en", "zh"])
def test_docs_are_the_rules(language: str) -> None:
    """Run `python -m anymamba.doctor.explain docs` after a change of a page."""
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


PAGE = """# AM999 some-cause

A snake
lives here.

## Why it happens

The fan
was warm.

## Do you need to fix it?

{optional}

## What to do, in this order

1. Show it the door. (Linux, WSL; conda)

   ```bash
   conda remove snake
   ```

   ```powershell
   Remove-Item snake
   ```

2. Or wait (some days).
3. {use-anymamba}

## Seen in

- <https://example.org/1>
"""


def test_a_page_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    original = page.source
    monkeypatch.setattr(page, "source", lambda package, language: PAGE if package == "snake" else original(package, language))
    prose = page.read("snake", "en")
    assert (prose.title, prose.why, prose.lines) == ("A snake lives here", "The fan was warm.", ())
    assert prose.needed.startswith("Usually not") and prose.links == ("https://example.org/1",)
    first, second, third = prose.remedies
    assert first == page.Remedy(
        "Show it the door.", ("conda remove snake",), ("Remove-Item snake",), ("linux", "wsl"), ("conda",), ()
    )
    assert second == page.Remedy("Or wait (some days).")
    assert third.commands == ("anymamba dropin enable",)
    monkeypatch.setattr(page, "source", lambda package, language: PAGE.replace("## Why", "## Wherefore"))
    with pytest.raises(KeyError, match="Wherefore"):
        page.read("viper", "en")


def doctor_files() -> list[Path]:
    package = ROOT / "src" / "anymamba"
    root = ("__init__", "__main__", "errors", "language", "catalog", "lazy", "nearest", "version",
            "cli/__init__", "cli/parser", "cli/doctor")
    single = [package / f"{name}.py" for name in root]
    return single + sorted((package / "doctor").rglob("*.py"))


def test_runs_on_python_38_with_the_standard_library() -> None:
    """Syntax of Python 3.8, and imports of the standard library and of the few files of ours that need nothing else."""
    names = ("", ".errors", ".language", ".catalog", ".lazy", ".nearest", ".version", ".cli", ".cli.parser")
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

"""What a release consists of: one wheel and one source archive whose metadata a package index accepts, and a wheel that works with
nothing installed but its run-time dependencies."""

from __future__ import annotations

import ast
import email
import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from scripts import messages

import anymamba

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert sorted(path.suffix for path in out.iterdir()) == [".gz", ".whl"]
    yield next(out.glob("*.whl"))


def test_a_package_index_accepts_the_metadata(wheel: Path) -> None:
    files = [str(path) for path in wheel.parent.iterdir()]
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_has_kernels_types_and_nothing_of_the_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "anymamba/py.typed" in names and any(name.endswith(".cu") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "docs/", "benchmarks/"))]


def test_the_wheel_speaks_chinese(wheel: Path, tmp_path: Path) -> None:
    """From the compiled catalog, as Babel would from its text; the text stays at home."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    assert [path.name for path in (tmp_path / "anymamba" / "locale").rglob("anymamba.*")] == ["anymamba.mo"]
    code = "import sys, anymamba.language as l; l.set_language('zh'); sys.stdout.buffer.write(repr(l._catalog()._catalog).encode())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=True)
    table = ast.literal_eval(done.stdout.decode("utf-8"))
    for entry in messages.read():
        if isinstance(entry.id, str) and not entry.context:
            assert table[entry.id] == entry.string or not entry.id


def test_a_zipped_package_speaks_chinese(wheel: Path) -> None:
    """Python imports from a wheel as it is; the doctor on a machine without pip is run so."""
    code = "import anymamba.language as l; print(l._catalog().info()['language'], l.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("zh ") and wheel.name in done.stdout


def run_time_modules(wheel: Path) -> set[str]:
    """Top-level modules of what the wheel requires, directly or through others, on this machine."""
    archive = zipfile.ZipFile(wheel)
    metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    waiting = email.message_from_bytes(archive.read(metadata)).get_all("Requires-Dist") or []
    names: set[str] = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name not in names and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            names.add(name)
            waiting += importlib.metadata.requires(name) or []
    return {
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if names & {canonicalize_name(distribution) for distribution in distributions}
    }


BLOCKER = """
import importlib.machinery, sys
allowed = set({allowed!r})
class RunTimeOnly(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top = name.split(".")[0]
        known = top in allowed or top in sys.stdlib_module_names or top.startswith("_")
        return super().find_spec(name, path, target) if known else None
builtin = importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter
sys.meta_path[:] = [*builtin, RunTimeOnly]
sys.path[:] = [entry for entry in sys.path if entry != {source!r}]
sys.path.insert(0, {unpacked!r})
import anymamba
assert anymamba.__file__.startswith({unpacked!r}), anymamba.__file__
run = anymamba.train("text.txt", out="run", steps=2, batch_tokens=256, length=64, progress=False)
assert isinstance(run.model.generate("a", 3), str)
assert "<svg" in run.curve.svg()
from anymamba.cli import main
for words in (["--version"], ["backends"], ["generate", "run", "-p", "a", "-m", "3"], ["eval", "run", "text.txt"], ["doctor"]):
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    assert code in (0, None) or words == ["doctor"] and code == 1, (words, code)
"""


def test_the_wheel_needs_nothing_but_its_run_time_dependencies(wheel: Path, tmp_path: Path) -> None:
    """Modules of all other distributions cannot be imported, as if they were not installed."""
    unpacked = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(unpacked)
    (tmp_path / "text.txt").write_text("a line of text.\n" * 200, "utf-8")
    source = str(Path(anymamba.__file__).parent.parent)
    program = BLOCKER.format(allowed=sorted(run_time_modules(wheel) | {"anymamba"}), source=source, unpacked=str(unpacked))
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-2500:]


@pytest.mark.slow
def test_the_wheel_in_a_bare_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    constraints = ROOT / "constraints.txt"
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", constraints, "torch"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", constraints, wheel], check=True)
    (tmp_path / "text.txt").write_text("a line of text.\n" * 400, "utf-8")
    for words in (
        ["train", "text.txt", "--out", "run", "--steps", "2", "--batch-tokens", "256", "--length", "64"],
        ["generate", "run", "-p", "a", "-m", "5"],
        ["backends"],
    ):
        done = subprocess.run([python, "-m", "anymamba", *words], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]


def interpreters() -> list[str]:
    """The supported Pythons of this machine (those of pyenv too), the one that runs the tests among them."""
    named: dict[str, str] = {}
    for minor in range(10, 15):
        installed = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))
        for path in [shutil.which(f"python3.{minor}"), *map(str, installed)]:
            # a shim of pyenv may stand for a Python that is not switched on
            if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
                named[f"3.{minor}"] = path
    named[f"3.{sys.version_info.minor}"] = sys.executable
    return list(named.values())


@pytest.mark.parametrize("python", interpreters())
def test_every_supported_python_compiles_the_sources(python: str, tmp_path: Path) -> None:
    copy = tmp_path / "src"
    shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run([python, "-W", "error", "-m", "compileall", "-q", str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_release_files_agree() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "## Unreleased" in changelog or f"## {anymamba.__version__}" in changelog
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["title"] and citation["authors"] and citation["license"] == "Apache-2.0"
    templates = ROOT / ".github" / "ISSUE_TEMPLATE"
    for name in ("wrong_result", "install_failure"):
        form = yaml.safe_load((templates / f"{name}.yml").read_text("utf-8"))
        assert form["name"] and form["description"]
        assert "--markdown" in str(form["body"]), "people are asked for the doctor's report"

"""anymamba-doctor: installed alone, or as one file, it says what `anymamba doctor` says, on Pythons and machines that have nothing else."""

from __future__ import annotations

import ast
import contextlib
import email
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from anymamba.cli import main
from anymamba.language import set_language

ROOT = Path(__file__).resolve().parents[2]
LOGS = sorted((ROOT / "tests" / "doctor" / "logs").glob("*.txt"))
# one in six is enough to notice a file that was left out; the causes themselves are tested elsewhere
SOME = LOGS[::6]


def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_doctor", ROOT / "scripts" / "build_doctor.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the single file."""
    wheel, single = builder().build(tmp_path_factory.mktemp("dist"))
    return wheel, single


@pytest.fixture(scope="module")
def bare(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment in which the wheel alone is installed."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    command = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "-q", "--no-index", str(built[0])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return programs


def run(*command: str | Path, given: bytes | None = None) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment.update(ANYMAMBA_LANG="en", COLUMNS="100")
    words = [str(word) for word in command]
    stdin = {"input": given} if given is not None else {"stdin": subprocess.DEVNULL}
    done = subprocess.run(words, capture_output=True, env=environment, timeout=120, **stdin)  # type: ignore[call-overload]
    return done.returncode, done.stdout.decode("utf-8")


def expected(log: Path, *options: str) -> tuple[int, str]:
    """What `anymamba doctor` says."""
    out = io.StringIO()
    set_language("en")
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(out):
            code = main(["doctor", str(log), *options])
    finally:
        set_language(None)
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    return code, out.getvalue()


def test_it_is_small_and_needs_nothing(built: tuple[Path, Path]) -> None:
    wheel, single = built
    assert wheel.stat().st_size < 1_000_000 and single.stat().st_size < 1_000_000
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"anymamba_doctor"}  # it can lie beside anymamba
    assert not {name.split("/")[1] for name in names} & {"backends", "models", "installer", "ops", "training", "generation"}
    metadata = email.message_from_bytes(archive.read(next(name for name in names if name.endswith("/METADATA"))))
    assert metadata.get_all("Requires-Dist") is None and metadata["Requires-Python"] == ">=3.8"
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


DRIVER = """
import contextlib, io, json, sys
from anymamba_doctor.cli.alone import main
answers = []
for log in sys.argv[1:]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([log])
    answers.append([code, out.getvalue()])
assert "torch" not in sys.modules and not any(name.split(".")[0] == "anymamba" for name in sys.modules)
print(json.dumps(answers))
"""


def test_installed_alone_it_says_the_same(bare: Path) -> None:
    code, out = run(bare / "python", "-I", "-c", DRIVER, *SOME)
    assert code == 0
    answers = [tuple(answer) for answer in json.loads(out)]
    assert len(answers) == len(SOME) > 20
    for log, answer in zip(SOME, answers):
        assert answer == expected(log), log.name


def test_the_script_and_the_single_file(bare: Path, built: tuple[Path, Path]) -> None:
    log = ROOT / "tests" / "doctor" / "logs" / "nvcc_missing_docker_runtime.txt"
    for command in ([bare / "anymamba-doctor"], [bare / "python", "-I", built[1]], [bare / "python", "-m", "anymamba_doctor"]):
        assert run(*command, log) == expected(log)
    assert run(bare / "anymamba-doctor", log, "--json") == expected(log, "--json")
    code, out = run(bare / "anymamba-doctor", given=log.read_bytes())
    assert code == 1 and "nvcc-missing" in out
    assert run(bare / "anymamba-doctor", "--version")[1].startswith("anymamba-doctor ")
    assert run(bare / "anymamba-doctor", "--help")[1].startswith("usage: anymamba-doctor ")
    assert run(bare / "anymamba-doctor", "no-such.log")[0] == run(bare / "anymamba-doctor", "--no-such-option")[0] == 2
    assert run(bare / "anymamba-doctor", "--explain", "AM003")[1].startswith("# AM003")
    assert run(bare / "anymamba-doctor", "--compat", "--for", "colab")[0] == 0


def test_it_checks_a_machine_without_torch(bare: Path) -> None:
    code, out = run(bare / "anymamba-doctor", "--json")
    report = json.loads(out)
    assert report["facts"]["torch"] == {"installed": False}
    assert next(section for section in report["sections"] if section["area"] == "torch")["summary"] == "not installed"


# methods, functions and modules that came after Python 3.8
NEWER = {
    "removeprefix", "removesuffix", "bit_count", "is_relative_to", "with_stem", "hardlink_to", "readlink", "randbytes", "lcm",
    "nextafter", "cache", "pairwise", "to_thread", "unparse", "stdlib_module_names", "orig_argv", "packages_distributions",
    "files_of_package", "batched", "walk_up", "EnumType", "StrEnum", "TaskGroup", "ExceptionGroup", "aclosing", "zoneinfo",
    "graphlib", "tomllib",
}  # fmt: skip


def test_every_file_is_python_38(tmp_path: Path) -> None:
    """Syntax, and names that the older standard library does not have; types in subscripts of builtins only where nothing runs them."""
    package = builder().stage(tmp_path)
    files = sorted(package.rglob("*.py"))
    assert len(files) > 100
    for path in files:
        text = path.read_text("utf-8")
        tree = ast.parse(text, str(path), feature_version=(3, 8))
        annotations = {
            inner
            for node in ast.walk(tree)
            for part in [getattr(node, "annotation", None), getattr(node, "returns", None)]
            if part is not None
            for inner in ast.walk(part)
        }
        lazy = "from __future__ import annotations" in text
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                assert node.attr not in NEWER, f"{path}:{node.lineno} {node.attr}"
            if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and not (lazy and node in annotations):
                assert node.value.id not in ("list", "dict", "tuple", "set", "type", "frozenset"), f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "zip":
                assert not node.keywords, f"{path}:{node.lineno}"


def older() -> str | None:
    """A Python 3.8 or 3.9 of this machine that starts."""
    places = [shutil.which("python3.8"), shutil.which("python3.9")]
    places += [str(path) for path in sorted(Path.home().glob(".pyenv/versions/3.[89].*/bin/python"))]
    for place in filter(None, places):
        if subprocess.run([place, "-c", ""], capture_output=True).returncode == 0:
            return place
    return None


def test_on_an_older_python(built: tuple[Path, Path]) -> None:
    python = older()
    if python is None:
        pytest.skip("there is no Python 3.8 or 3.9 here")
    for log in SOME[::6]:
        assert run(python, "-I", built[1], log) == expected(log), log.name
    code, out = run(python, "-I", built[1], "--json", "--wait", "1")
    assert code in (0, 1) and json.loads(out)["facts"]["python"]["version"].startswith(("3.8", "3.9"))
    assert run(python, "-I", built[1], "--compat", "--for", "ngc-25.10", "--lang", "zh")[0] == 0

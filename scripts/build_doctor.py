"""The doctor as a distribution of its own, from the same sources: dist/anymamba_doctor-*.whl and dist/anymamba-doctor.pyz.

    python scripts/build_doctor.py [FOLDER]     # `python dev.py doctor`

The files that `anymamba doctor` needs are copied under the package name anymamba_doctor, so that it can lie beside anymamba itself, and
their imports are rewritten; nothing else differs. Standard library only at run time, Python 3.8 or newer.
"""

from __future__ import annotations

import ast
import runpy
import shutil
import subprocess
import sys
import tempfile
import zipapp
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src" / "anymamba"
NAME = "anymamba_doctor"
ENTRY = "cli/alone.py"
START = f"import sys\n\nfrom {NAME}.cli.alone import main\n\nsys.exit(main())\n"
# bytes that the wheel may have at most
LARGEST = 1_000_000

PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "anymamba-doctor"
version = "{version}"
description = "Why mamba-ssm or causal-conv1d would not install or run, and what to do: from a log, or from the machine"
readme = "README.md"
license = "Apache-2.0"
license-files = ["LICENSE"]
requires-python = ">=3.8"
dependencies = []
keywords = ["mamba", "mamba-ssm", "causal-conv1d", "installation", "diagnosis"]
classifiers = [
  "Development Status :: 4 - Beta",
  "Operating System :: OS Independent",
  "Programming Language :: Python :: 3",
]

[project.scripts]
anymamba-doctor = "anymamba_doctor.cli.alone:main"

[tool.hatch.build.targets.wheel]
packages = ["anymamba_doctor"]
"""

README = """\
# anymamba-doctor

Why `mamba-ssm` or `causal-conv1d` would not install or run, in one command: the cause, the lines that prove it, and what to type.
It needs no torch, no compiler and no other package.

```bash
uvx anymamba-doctor build.log                            # a log you have
pipx run anymamba-doctor                                 # this machine
pip install mamba-ssm 2>&1 | anymamba-doctor             # a log from a pipe
anymamba-doctor --compat requirements.txt                # which versions go together
python anymamba-doctor.pyz build.log                     # the single file
```

It is the `anymamba doctor` of [anymamba](https://pypi.org/project/anymamba/), which runs Mamba models without these packages.
"""


def modules() -> list[Path]:
    """The files that the entry needs, relative to the sources: what it imports, at the top or in functions, and the whole doctor."""
    waiting = [SOURCES / ENTRY, *sorted((SOURCES / "doctor").rglob("*.py"))]
    needed: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in needed or path == SOURCES / "__init__.py":
            continue
        needed.add(path)
        for name in imported(path.read_text("utf-8")):
            waiting += files_of(name)
    return sorted(path.relative_to(SOURCES) for path in needed)


def imported(text: str) -> set[str]:
    """Names of ours that a file imports, except for type checkers."""
    names: set[str] = set()
    for node in nodes(text):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.split(".")[0] == "anymamba"}


def nodes(text: str) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]


def files_of(name: str) -> list[Path]:
    """The file of a module with the packages that it lies in; empty for a name that is no module."""
    path = SOURCES.joinpath(*name.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.exists():
        return []
    above = [folder / "__init__.py" for folder in file.relative_to(SOURCES).parents if folder != Path(".")]
    return [file, *(SOURCES / item for item in above if (SOURCES / item).exists())]


def renamed(text: str) -> str:
    """The file with its imports of ours rewritten; strings and comments stay as they are."""
    lines = text.split("\n")
    for node in nodes(text):
        old = "from anymamba" if isinstance(node, ast.ImportFrom) else "import anymamba"
        name = node.names[0].name if isinstance(node, ast.Import) else node.module or ""
        if name.split(".")[0] == "anymamba" and not getattr(node, "level", 0):
            line = lines[node.lineno - 1]
            assert line[node.col_offset :].startswith(old), line
            lines[node.lineno - 1] = line[: node.col_offset] + old + "_doctor" + line[node.col_offset + len(old) :]
    return "\n".join(lines)


def stage(folder: Path) -> Path:
    """Writes the distribution's sources; returns the package's folder."""
    package = folder / NAME
    version = runpy.run_path(str(SOURCES / "version.py"))["__version__"]
    for path in modules():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text(renamed((SOURCES / path).read_text("utf-8")), "utf-8")
    (package / "__init__.py").write_text('"""anymamba\'s doctor, alone."""\n', "utf-8")
    (package / "__main__.py").write_text(START, "utf-8")
    for path in sorted((SOURCES / "doctor").rglob("*")):
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts:
            shutil.copy(path, package / path.relative_to(SOURCES))
    shutil.copytree(SOURCES / "locale", package / "locale")
    (folder / "pyproject.toml").write_text(PROJECT.format(version=version), "utf-8")
    (folder / "README.md").write_text(README, "utf-8")
    shutil.copy(ROOT / "LICENSE", folder / "LICENSE")
    return package


def build(out: Path) -> tuple[Path, Path]:
    """(the wheel, the single file)."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        package = stage(folder)
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out.resolve()), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
        alone = folder / "alone"
        shutil.copytree(package, alone / NAME, ignore=shutil.ignore_patterns("__pycache__"))
        (alone / "__main__.py").write_text(START, "utf-8")
        single = out / "anymamba-doctor.pyz"
        zipapp.create_archive(alone, single, interpreter="/usr/bin/env python3", compressed=True)
    wheel = max(out.glob(f"{NAME}-*.whl"), key=lambda path: path.stat().st_mtime)
    for path in (wheel, single):
        if path.stat().st_size > LARGEST:
            sys.exit(f"{path} has {path.stat().st_size} bytes, more than {LARGEST}")
    return wheel, single


if __name__ == "__main__":
    for path in build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist"):
        print(path, path.stat().st_size)

"""One-word developer commands, the same on Linux, macOS and Windows.  python dev.py COMMAND [pytest arguments]

setup      .venv with anymamba (editable) and everything the tests need
test       setup, style, types, documentation, tests: what CI runs
check      style and types only
test-slow  the large cases as well
test-grid  every combination of the grids of attachments, of which test-slow runs every pair: hours
test-gpu   the cases that need a CUDA or ROCm device
demo       setup, then train a small model and generate with it
bench      setup, then the benchmarks of this machine
docs       build the documentation into site/; any warning is an error
messages   bring the Chinese catalog up to what the code says
wheel      build dist/anymamba-*-py3-none-any.whl
doctor     build dist/anymamba_doctor-*.whl and dist/anymamba-doctor.pyz: `anymamba doctor` alone, without torch
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
NOT_WITHOUT_LIBRARIES = ("--disable-error-code=var-annotated", "--disable-error-code=return-value")
STAMP = VENV / "anymamba-setup.txt"


def run(*command: str | Path, **environment: str) -> None:
    print("$", *command, file=sys.stderr, flush=True)
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env={**os.environ, **environment})
    if done.returncode:
        sys.exit(done.returncode)


def setup(extras: str = "[dev]") -> None:
    """Creates .venv and installs into it; does nothing when pyproject.toml and constraints.txt are as at the last time."""
    wanted = extras + (ROOT / "pyproject.toml").read_text("utf-8") + (ROOT / "constraints.txt").read_text("utf-8")
    if STAMP.exists() and STAMP.read_text("utf-8") == wanted:
        return
    if sys.version_info < (3, 10):  # noqa: UP036 - this file is what tells an old Python so
        sys.exit(f"anymamba needs Python 3.10 or newer; this is {sys.version.split()[0]}")
    if not PYTHON.exists():
        venv.create(VENV, with_pip=True)
    constraint = "-c", "constraints.txt"
    # torch first and alone: with it installed, no other package's requirement can bring another build of it
    run(PYTHON, "-m", "pip", "install", "-q", *constraint, "torch")
    run(PYTHON, "-m", "pip", "install", "-q", *constraint, "-e", "." + extras)
    STAMP.write_text(wanted, "utf-8")


def check() -> None:
    run(PYTHON, "-m", "ruff", "check", "src", "tests", "benchmarks", "dev.py")
    run(PYTHON, "-m", "mypy", "--num-workers", "2")
    for platform in {"linux", "win32", "darwin"} - {sys.platform}:  # branches of other systems are code too
        # what torch and the like say is the same everywhere: reading it again would take a minute
        run(PYTHON, "-m", "mypy", "--platform", platform, "--follow-imports=skip", *NOT_WITHOUT_LIBRARIES)


def docs() -> None:
    run(PYTHON, "-m", "mkdocs", "build", "--quiet", "--strict", NO_MKDOCS_2_WARNING="1")


def pytest(*arguments: str) -> None:
    # several programs with as many threads as there are cores: those that wait must not spin on the cores of those that work
    run(PYTHON, "-m", "pytest", *arguments, OMP_WAIT_POLICY="passive")


def main(command: str, *rest: str) -> None:
    if command in ("demo", "bench"):
        setup()
        run(PYTHON, "-m", "anymamba", command, *rest)
    elif command == "setup":
        setup()
    elif command == "check":
        setup()
        check()
    elif command == "test":
        setup()
        check()
        docs()
        pytest("-m", "not slow and not gpu and not grid", "-n", "2", "--dist", "loadfile", *rest)
    elif command == "test-slow":
        setup()
        pytest("-m", "not gpu and not grid", *rest)
    elif command == "test-grid":
        setup()
        pytest("-m", "grid", *rest)
    elif command == "test-gpu":
        pytest("-m", "gpu", *rest)
    elif command == "docs":
        setup()
        docs()
    elif command == "messages":
        setup()
        run(PYTHON, "scripts/messages.py")
    elif command == "doctor":
        setup()
        run(PYTHON, "scripts/build_doctor.py")
    elif command == "wheel":
        setup()
        run(PYTHON, "-m", "build", "--wheel", "--no-isolation")
    else:
        sys.exit(f"{command!r} is not a command\n\n{__doc__}")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
    else:
        main(*sys.argv[1:])

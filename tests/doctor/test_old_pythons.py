"""The doctor under the oldest Pythons of this machine, with nothing installed, in both languages."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOG = ROOT / "tests" / "doctor" / "logs" / "nvcc_missing_vmamba.txt"


def interpreters() -> list[str]:
    """Python 3.8, where users of old images run the doctor, and 3.10, the oldest that installs the package."""
    found = []
    for minor in (8, 10):
        named = [shutil.which(f"python3.{minor}"), *map(str, Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))]
        # a shim of pyenv may stand for a Python that is not switched on
        found += [path for path in named if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0][:1]
    return found


@pytest.mark.parametrize("python", interpreters())
@pytest.mark.parametrize(("language", "says"), [("en", "the build found no CUDA compiler"), ("zh", "需要修复吗")])
def test_a_log_is_diagnosed(python: str, language: str, says: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    command = [python, "-S", "-m", "anymamba", "--lang", language, "doctor", str(LOG)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 1, done.stderr.decode("utf-8")
    assert "nvcc-missing" in done.stdout.decode("utf-8") and says in done.stdout.decode("utf-8")

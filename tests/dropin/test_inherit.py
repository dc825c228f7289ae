"""Python processes that a program starts under `anymamba run` have the drop-in as well."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SPAWN = """
import multiprocessing
import mamba_ssm

def work(queue):
    import causal_conv1d
    queue.put(causal_conv1d.__version__)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    print(queue.get(timeout=100))
    process.join()
"""
CHILD = "import mamba_ssm, sys; print(mamba_ssm.__version__, sum('children' in entry for entry in sys.path))"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True)"
GRANDPARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PARENT!r}], check=True)"
RANK = """
import os
import mamba_ssm
with open("rank" + os.environ["RANK"], "w") as file:  # both write to one stdout, where lines can mix
    file.write(mamba_ssm.__version__)
"""


def run(folder: Path, *words: str, **environment: str) -> str:
    command = [sys.executable, "-m", "anymamba", "run", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Error in sitecustomize" not in done.stderr
    return done.stdout


def test_a_spawned_worker(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SPAWN)
    assert run(tmp_path, "program.py").strip() == "1.7.0+anymamba"


def test_a_grandchild_whose_path_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(GRANDPARENT)
    assert run(tmp_path, "program.py").strip() == "2.3.2.post1+anymamba 0"


def test_a_sitecustomize_that_was_there_still_runs(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PARENT)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text("import sys; sys.stdout.write('own ')\n")
    assert run(tmp_path, "program.py", PYTHONPATH=str(tmp_path / "own")).endswith("own 2.3.2.post1+anymamba 0\n")


def test_the_choice_between_ours_and_a_real_package_is_inherited(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PARENT)
    (tmp_path / "lib" / "mamba_ssm").mkdir(parents=True)
    (tmp_path / "lib" / "mamba_ssm" / "__init__.py").write_text("__version__ = '9.9'\n")
    assert run(tmp_path, "program.py", PYTHONPATH=str(tmp_path / "lib")).startswith("9.9")
    assert run(tmp_path, "--override", "program.py", PYTHONPATH=str(tmp_path / "lib")).startswith("2.3.2.post1+anymamba")


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun on Windows needs a torch with libuv")
def test_the_ranks_of_torchrun(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(RANK)
    run(tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py")
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == ["2.3.2.post1+anymamba"] * 2

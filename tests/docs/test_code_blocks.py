"""Every code block of docs/en and docs/zh says what it is, is the same in both languages, and runs."""

from __future__ import annotations

import configparser
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.pages import DOCS, LANGUAGES, Block, blocks, commands, fill, pages, shortened

from anymamba import cli
from anymamba.training.run.config import checked, read_toml

NOT_RUN = {
    "pip install": "changes the environment that runs the tests",
    "python3 -m venv": "the same",
    "sudo ": "changes the system",
    "source ~/mamba": "an environment of the reader's",
    "nvidia-smi": "needs an NVIDIA driver",
    "CUDA_HOME=": "builds for half an hour; its script is checked by tests/installer/test_scripts.py",
    "python -c \"import torch; print(torch.__version__, torch.cuda": "needs a CUDA device",
    "torchrun ": "several GPUs; tests/training/test_parallel.py runs two processes on CPUs",
    "vllm ": "another program",
    "anymamba demo": "tests/cli/test_demo.py",
    "anymamba chat": "asks for input; tests/cli has it in a pseudo-terminal",
    "anymamba install": "tests/installer; here the options are parsed",
    "anymamba dropin enable": "tests/cli/test_dropin.py",
    "anymamba dropin disable": "tests/cli/test_dropin.py",
    "anymamba run -m torch.distributed.run": "tests/dropin/two_processes.py",
}  # fmt: skip
"""Beginnings of commands that no test can run here, and why; those of anymamba are at least parsed."""

ENGLISH = pages("en")
EVERY = [block for language in ("en", "zh") for page in pages(language) for block in blocks(page)]


def shell(page: Path) -> list[str]:
    return [command for block in blocks(page) if block.language == "bash" for command in commands(block)]


@pytest.mark.parametrize("block", EVERY, ids=str)
def test_a_block_says_what_it_is(block: Block) -> None:
    assert block.language in LANGUAGES, f"{block}: write ```bash, ```python, ... or, for output, ```text"
    if block.language == "json":
        json.loads(block.text)
    if block.language == "ini":
        configparser.ConfigParser().read_string(block.text)


@pytest.mark.parametrize("page", ENGLISH, ids=lambda page: page.name)
def test_both_languages_have_the_same_code(page: Path) -> None:
    def code(path: Path) -> list[tuple[str, str]]:
        # a prompt is written in the reader's language, and so are comments
        plain = ((block.language, re.sub(r"\s*#.*|-p \"[^\"]*\"", "", block.text)) for block in blocks(path))
        return [(language, text.strip()) for language, text in plain if language != "text"]

    chinese = DOCS / "zh" / page.relative_to(DOCS / "en")
    assert code(page) == code(chinese)


def test_toml_blocks_are_configurations(tmp_path: Path) -> None:
    found = [block for block in EVERY if block.language == "toml"]
    assert found
    for block in found:
        (tmp_path / "run.toml").write_text(block.text, "utf-8")
        checked(read_toml(tmp_path / "run.toml"), str(block))


@pytest.mark.parametrize("page", [page for page in ENGLISH if shell(page)], ids=lambda page: page.name)
def test_options_of_our_commands_exist(page: Path) -> None:
    parsed = 0
    for command in shell(page):
        for part in re.split(r"\s[|<>]+\s|2>&1", command):
            words = shlex.split(part)
            if words[:1] == ["anymamba"] and words[1:2] != ["run"]:
                with contextlib.redirect_stderr(io.StringIO()) as errors:
                    try:
                        cli._parsers(words[1])[0].parse_args(words[1:])
                    except SystemExit as stop:
                        pytest.fail(f"{page.name}: {command}\n{errors.getvalue()}{stop}")
                parsed += 1
    assert parsed or not any(command.startswith("anymamba ") for command in shell(page))


def test_what_is_not_run_still_stands_in_a_page() -> None:
    every = [command for page in ENGLISH for command in shell(page)]
    assert [start for start in NOT_RUN if not any(command.startswith(start) for command in every)] == []


PYTHON = """
import sys, runpy
for path in sys.argv[1:]:
    runpy.run_path(path, run_name="__main__")
"""


def test_python_blocks_run(tmp_path: Path) -> None:
    """Pages that change what ``import mamba_ssm`` means have a process each, all others share one."""
    fill(tmp_path)
    plain: list[str] = []
    apart: list[str] = []
    for page in sorted(ENGLISH, key=lambda page: page.stem != "python"):  # it makes the run that others load
        code = "\n".join(shortened(block.text) for block in blocks(page) if block.language == "python")
        if code:
            path = tmp_path / f"page_{page.stem}.py"
            path.write_text(code, "utf-8")
            (apart if "anymamba.dropin()" in code else plain).append(str(path))
    tuned = tmp_path / "tuned.py"
    tuned.write_text(
        "import anymamba\n"
        "small = dict(steps=2, batch_tokens=512, length=128, progress=False)\n"
        "anymamba.train('answers.jsonl', instruct=True, start='runs/book-tiny', **small)\n",
        "utf-8",
    )
    assert len(plain) >= 4 and apart
    for group in ([plain[0], str(tuned), *plain[1:]], *([path] for path in apart)):
        done = subprocess.run([sys.executable, "-c", PYTHON, *group], cwd=tmp_path, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, f"{group}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the pages speak of, a trained and a tuned run among them."""
    folder = tmp_path_factory.mktemp("docs")
    fill(folder)
    run(shortened("anymamba train book.txt --size tiny --max-minutes 1"), folder)
    run(shortened("anymamba train answers.jsonl --instruct --from runs/book-tiny --max-minutes 1"), folder)
    run(shortened("anymamba train answers.jsonl --instruct --from runs/book-tiny --lora 16 --out runs/adapter --max-minutes 1"), folder)
    for copy in ("demo", "corpus-130m", "mine"):
        shutil.copytree(folder / "runs" / "book-tiny", folder / "runs" / copy)
    return folder


def run(command: str, folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    # 1 means of the doctor that it has something to say, of a plan of the installer that this machine has no GPU for the packages
    allowed = (0, 1) if "anymamba doctor" in command or "--dry-run" in command else (0,)
    assert done.returncode in allowed, f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"


RUN = [
    pytest.param(command, id=f"{page.stem}: {command}")
    for page in ENGLISH
    for command in dict.fromkeys(shell(page))
    if "--dry-run" in command or not any(command.startswith(start) for start in NOT_RUN)
]


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_shell_commands_run(command: str, workplace: Path) -> None:
    command = shortened(command)
    if re.match(r"anymamba train (?!.*--resume)", command):
        # the page's own run folder may be there already, made by the page before
        command = "rm -rf runs/new; " + re.sub(r"--out \S+", "", command).replace("train", "train --out runs/new", 1)
    run(command, workplace)

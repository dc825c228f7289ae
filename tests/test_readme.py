"""Every command and every Python block of both READMEs runs, in their order, in a folder with a text file."""

from __future__ import annotations

import pydoc_data.topics
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README.zh.md")

QUICK = {"--max-minutes 2": "--steps 2 --batch-tokens 512 --length 128"}
"""What the test makes shorter; the other words of the command stay."""

ELSEWHERE = {
    "python dev.py demo": "tests/cli/test_demo.py and `python dev.py demo`",
    "python dev.py test": "what runs this test",
}


def blocks(readme: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / readme).read_text("utf-8"), re.DOTALL)


def commands(readme: str) -> list[str]:
    return [line for block in blocks(readme, "") for line in block.splitlines() if line.startswith(("anymamba ", "python "))]


def test_both_readmes_name_the_same_commands_and_code() -> None:
    english, chinese = READMES
    assert commands(english) == commands(chinese) != []
    assert blocks(english, "python") == blocks(chinese, "python") != []


def test_links_lead_somewhere() -> None:
    for readme in READMES:
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / readme).read_text("utf-8")):
            assert (ROOT / target).exists(), f"{readme} links to {target}"


def test_commands_run_in_their_order(tmp_path: Path) -> None:
    text = " ".join(pydoc_data.topics.topics.values())
    (tmp_path / "book.txt").write_text(text[:200_000], "utf-8")
    for command in commands(READMES[0]):
        if command in ELSEWHERE:
            continue
        for long, short in QUICK.items():
            command = command.replace(long, short)
        words = shlex.split(command)[1:]
        done = subprocess.run([sys.executable, "-m", "anymamba", *words], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        # doctor's exit code 1 means that it found something to say about this machine
        allowed = (0, 1) if words[0] == "doctor" else (0,)
        assert done.returncode in allowed, f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr, f"{command}\n{done.stderr[-2000:]}"
    for block in blocks(READMES[0], "python"):
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_the_demo_command(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "anymamba", "demo"], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]

"""anymamba chat on a pseudo-terminal, started from a shell: what is typed and pasted reaches the model whole, and never the shell."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli import chat_model

pexpect = pytest.importorskip("pexpect")
if sys.platform == "win32":
    pytest.skip("a pseudo-terminal of POSIX", allow_module_level=True)

PROMPT, STOPPED, ENTER, CTRL_C, UP, ALT_ENTER = "SHELL$ ", "-- stopped", "\r", "\x03", "\x1b[A", "\x1b\r"


def pasted(text: str) -> str:
    """As a terminal that marks a paste as such sends it."""
    return f"\x1b[200~{text}\x1b[201~"


class Terminal:
    """A shell with `anymamba chat` in it. A file named ``ran`` in its folder would be the work of a line that reached the shell."""

    def __init__(self, folder: Path, always: str) -> None:
        self.folder = folder
        model = chat_model.save(folder / "model", ord(always))
        environment = {**os.environ, "PS1": PROMPT, "TERM": "xterm-256color", "ANYMAMBA_LANG": "en"}
        self.shell = pexpect.spawn(
            "/bin/sh", ["-i"], env=environment, encoding="utf-8", codec_errors="replace", timeout=60, cwd=str(folder)
        )
        self.shell.setwinsize(24, 80)
        self.shell.expect_exact(PROMPT)
        self.shell.sendline(f"{sys.executable} -m anymamba chat {model} -m -1")
        self.answer = always * 3 if always.isprintable() else "\u241b" * 3  # the picture of ESC

    def ready(self) -> None:
        self.shell.expect_exact("Ctrl-C stops an answer")
        self.shell.expect_exact(">")

    def stop(self) -> None:
        """Ctrl-C in an answer."""
        self.shell.expect_exact(self.answer)
        self.shell.send(CTRL_C)
        self.shell.expect_exact(STOPPED)
        self.shell.expect_exact(">")

    def questions(self) -> list[str]:
        """Of the conversation so far."""
        self.shell.send("/save talk.jsonl" + ENTER)
        self.shell.expect_exact("saved to talk.jsonl")
        self.shell.expect_exact(">")
        lines = (self.folder / "talk.jsonl").read_text("utf-8").splitlines()
        return [message["content"] for message in map(json.loads, lines) if message["role"] == "user"]

    def last(self) -> str:
        return self.questions()[-1]


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path_factory.mktemp("terminal"), "Z")
    terminal.ready()
    yield terminal
    terminal.shell.close(force=True)
    assert not (terminal.folder / "ran").exists()


def test_a_paste_with_blank_lines_is_one_question(terminal: Terminal) -> None:
    text = "first\n\ntouch ran\n\n\nlast"
    terminal.shell.send(pasted(text) + ENTER)
    terminal.stop()
    assert terminal.last() == text


def test_ctrl_c_keeps_the_conversation_and_typing_goes_on(terminal: Terminal) -> None:
    before = terminal.questions()
    terminal.shell.send("one" + ENTER)
    terminal.stop()
    terminal.shell.send("two" + ENTER)
    terminal.stop()
    assert terminal.questions() == [*before, "one", "two"]
    terminal.shell.send("thrown away" + CTRL_C)
    terminal.shell.expect_exact("Ctrl-D ends")
    terminal.shell.expect_exact(">")
    assert terminal.last() == "two"


def test_an_unmarked_paste_with_blank_lines_reaches_nobody_else(terminal: Terminal) -> None:
    terminal.shell.send("touch ran\r\r\rtouch ran again\r")
    terminal.stop()
    terminal.stop()
    assert terminal.questions()[-2:] == ["touch ran", "touch ran again"]


def test_history_and_new_lines(terminal: Terminal) -> None:
    terminal.shell.send("up again" + ENTER)
    terminal.stop()
    terminal.shell.send(UP + "!" + ALT_ENTER + "second\\" + ENTER + "third" + ENTER)
    terminal.stop()
    assert terminal.last() == "up again!\nsecond\nthird"


def test_chinese_and_backspace_over_wide_characters(terminal: Terminal) -> None:
    terminal.shell.send("你好世界\x7f吗？" + ENTER)
    terminal.stop()
    assert terminal.last() == "你好世吗？"


@pytest.mark.parametrize("marked", [True, False])
def test_twenty_thousand_characters(terminal: Terminal, marked: bool) -> None:
    text = ("0123456789abcdef猫" * 1200)[:20000]
    terminal.shell.send((pasted(text) if marked else text) + ENTER)
    terminal.stop()
    assert terminal.last() == text


def test_what_is_typed_during_an_answer_waits_for_the_next_question(terminal: Terminal) -> None:
    terminal.shell.send("hold on" + ENTER)
    terminal.shell.expect_exact(terminal.answer)
    long = "typed meanwhile " + "y" * 6000
    terminal.shell.send(long)
    terminal.shell.send(CTRL_C)
    terminal.shell.expect_exact(STOPPED)
    terminal.shell.send(ENTER)
    terminal.stop()
    assert terminal.last() == long


def test_errors_end_nothing(terminal: Terminal) -> None:
    (terminal.folder / "letter.txt").write_text("dear all\n")
    failing = {"/save letter.txt": "no conversation", "/load letter.txt": "line 1", "/save no/such/folder": "cannot write"}
    for command, told in failing.items():
        terminal.shell.send(command + ENTER)
        terminal.shell.expect_exact(told)
        terminal.shell.expect_exact(">")
    before = terminal.questions()
    terminal.shell.send("/load talk.jsonl" + ENTER)
    terminal.shell.expect_exact("messages goes on")
    assert terminal.questions() == before


def test_after_the_end_nothing_reaches_the_shell_and_it_echoes_again(terminal: Terminal) -> None:
    terminal.shell.send("/exit\rtouch ran\r\rtouch ran\r")
    terminal.shell.expect_exact(PROMPT)
    terminal.shell.sendline("echo code=$?; stty -a")
    terminal.shell.expect_exact("code=0")
    terminal.shell.expect_exact(PROMPT)
    assert " icanon" in terminal.shell.before and " echo " in terminal.shell.before
    assert not (terminal.folder / "ran").exists()


def test_ctrl_d_ends_and_escapes_of_the_model_do_not_reach_the_terminal(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "\x1b")
    terminal.shell.send("typed while the model is read")
    terminal.ready()
    terminal.shell.send(ENTER)
    terminal.shell.expect_exact(terminal.answer)
    terminal.shell.send(CTRL_C)
    terminal.shell.expect_exact(STOPPED)
    assert "\x1b" not in terminal.shell.before
    terminal.shell.expect_exact(">")
    terminal.shell.send("\x04")
    terminal.shell.expect_exact(PROMPT)
    terminal.shell.sendline("echo code=$?")
    terminal.shell.expect_exact("code=0")
    terminal.shell.close(force=True)

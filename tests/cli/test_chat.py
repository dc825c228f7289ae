"""anymamba chat with its questions on a pipe. With somebody at a keyboard: test_chat_terminal.py."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli import chat_model

from anymamba.cli import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return chat_model.save(tmp_path_factory.mktemp("chat") / "model")


def talk(
    checkpoint: str, typed: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *options: str
) -> tuple[int, str, str]:
    monkeypatch.setattr("anymamba.cli.terminal.standard_input._said", set())  # as in a new process
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed), "utf-8"))
    code = main(["chat", checkpoint, "-m", "5", *options])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def messages_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_answers_commands_and_empty_lines(
    checkpoint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    saved = tmp_path / "talk.jsonl"
    typed = f"hello\n\n   \nagain\n/usr/bin/x, what is that?\n/save {saved}\n/help\n/nonsense\n/reset\n/exit\nnot read\n"
    code, out, err = talk(checkpoint, typed.encode(), capsys, monkeypatch)
    assert code == 0, err
    messages = messages_of(saved)
    assert [message["role"] for message in messages] == ["user", "assistant"] * 3
    assert [message["content"] for message in messages[::2]] == ["hello", "again", "/usr/bin/x, what is that?"]
    assert out.count("\n") >= 3 and "/load FILE" in err and "no command /nonsense" in err


def test_a_saved_conversation_goes_on(
    checkpoint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, whole, second = tmp_path / "first.jsonl", tmp_path / "whole.jsonl", tmp_path / "second.jsonl"
    typed = f"hello\n/save {first}\nagain\n/save {whole}\n"
    assert talk(checkpoint, typed.encode(), capsys, monkeypatch, "--system", "be brief")[0] == 0
    assert talk(checkpoint, f"/load {first}\nagain\n/save {second}\n".encode(), capsys, monkeypatch)[0] == 0
    assert messages_of(second) == messages_of(whole) and messages_of(whole)[0] == {"role": "system", "content": "be brief"}


def test_questions_that_are_no_utf8(
    checkpoint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    saved = tmp_path / "talk.jsonl"
    typed = "gr\u00fcn\n".encode("latin-1") + "猫 ".encode() + b"\xe7\x8c\n" + f"/save {saved}\n".encode()
    code, _, err = talk(checkpoint, typed, capsys, monkeypatch)
    assert code == 0 and "Latin-1" in err and "U+FFFD" in err
    assert [message["content"] for message in messages_of(saved)[::2]] == ["grün", "猫 \ufffd"]


def test_no_other_file_is_overwritten_and_a_bad_one_is_named(
    checkpoint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("dear all\n")
    for command, told in ((f"/save {letter}", "is no conversation"), (f"/load {letter}", "line 1"), ("/load none.jsonl", "none.jsonl")):
        code, _, err = talk(checkpoint, f"hello\n{command}\n".encode(), capsys, monkeypatch)
        assert code == 1 and told in err and "bug" not in err
    assert letter.read_text() == "dear all\n"


def test_no_other_verb_pays_for_the_line_editor(checkpoint: str) -> None:
    program = (
        "import sys; from anymamba.cli import main; "
        f"main(['generate', {checkpoint!r}, '-p', 'x', '-m', '2', '-q']); main(['chat', {checkpoint!r}]); "
        "print([name for name in ('prompt_toolkit', 'torch._dynamo', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], input="", capture_output=True, text=True, encoding="utf-8", check=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stdout

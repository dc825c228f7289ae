"""A conversation that was stopped, left or broken off goes on as if it had been read anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.cli import chat_model

from anymamba.errors import AnymambaError
from anymamba.generation import chat as chat_module
from anymamba.generation.chat import Chat
from anymamba.generation.engine import Reader
from anymamba.generation.sampling import Sampling
from anymamba.models import hub
from anymamba.models.lm import LanguageModel
from anymamba.models.tokenizer import Tokenizer, load_tokenizer

GREEDY = Sampling()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, Tokenizer]:
    """Writes ASCII only: its answers as text give the same tokens again."""
    folder = chat_model.save(tmp_path_factory.mktemp("chat") / "model")
    model = hub.load(folder)
    with torch.no_grad():
        model.lm_head.weight[:32] = model.lm_head.weight[127:] = 0
    return model, load_tokenizer(folder)


def say_to(chat: Chat, question: str, tokens: int = 8, stop_after: int | None = None) -> str:
    asked = []

    def stopped() -> bool:
        asked.append(1)
        return stop_after is not None and len(asked) > stop_after

    pieces = list(chat.reply(question, tokens, GREEDY, stopped=stopped))
    assert pieces[-1].finish == ("length" if stop_after is None else "stopped")
    return "".join(piece.text for piece in pieces)


def assert_goes_on(chat: Chat) -> None:
    """The next answer is the one of a model that reads the whole conversation at once."""
    fresh = Chat(chat.model, chat.tokenizer)
    fresh.messages = list(chat.messages)
    assert say_to(chat, "and?") == say_to(fresh, "and?")
    for one, other in zip(chat.reader.cache.layers, fresh.reader.cache.layers):
        torch.testing.assert_close(one.ssm, other.ssm, rtol=1e-3, atol=1e-4)
    assert chat.messages == fresh.messages


def test_turns_read_only_what_is_new(parts: tuple[LanguageModel, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat(*parts)
    say_to(chat, "a long question, longer than the next one")
    read: list[int] = []
    plain = Reader.read
    monkeypatch.setattr(Reader, "read", lambda self, ids, *rest: read.append(ids.shape[1]) or plain(self, ids, *rest))
    say_to(chat, "b")
    assert sum(read) == 6  # the last token of the answer, <|end|>, <|user|>, b, <|end|>, <|assistant|>
    monkeypatch.undo()
    assert_goes_on(chat)


@pytest.mark.parametrize("after", [1, 3])
def test_a_stopped_answer_stays_in_the_conversation(parts: tuple[LanguageModel, Tokenizer], after: int) -> None:
    chat = Chat(*parts)
    say_to(chat, "one")
    answer = say_to(chat, "two", 100, stop_after=after)
    assert len(answer) == after and chat.messages[-2:] == [
        {"role": "user", "content": "two"}, {"role": "assistant", "content": answer},
    ]  # fmt: skip
    assert_goes_on(chat)


def test_a_question_that_was_not_read_whole_is_dropped(parts: tuple[LanguageModel, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_module, "TOKENS_BETWEEN_LOOKS", 16)
    chat = Chat(*parts)
    say_to(chat, "one")
    before = list(chat.messages)
    assert say_to(chat, "two " * 50, stop_after=2) == ""
    assert chat.messages == before
    assert_goes_on(chat)


def test_a_closed_iterator_is_a_stop(parts: tuple[LanguageModel, Tokenizer]) -> None:
    chat = Chat(*parts)
    for count, _ in enumerate(chat.reply("one", 100, GREEDY)):
        if count == 4:
            break
    assert len(chat.messages[-1]["content"]) == 5
    assert_goes_on(chat)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_in_the_middle_of_a_step(
    parts: tuple[LanguageModel, Tokenizer], monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    chat = Chat(*parts)
    say_to(chat, "one")
    plain, count = Reader.step, []

    def step(self: Reader, ids: torch.Tensor) -> torch.Tensor:
        count.append(1)
        logits = plain(self, ids)
        if len(count) == 3:
            raise error
        return logits

    monkeypatch.setattr(Reader, "step", step)
    with pytest.raises(error):
        list(chat.reply("two", 100, GREEDY))
    monkeypatch.undo()
    assert chat.messages[-2]["content"] == "two" and len(chat.messages[-1]["content"]) == 3
    assert_goes_on(chat)


def test_save_and_load(parts: tuple[LanguageModel, Tokenizer], tmp_path: Path) -> None:
    chat, other = Chat(*parts, "be brief"), Chat(*parts)
    say_to(chat, "你好")
    chat.save(tmp_path / "talk")
    chat.save(tmp_path / "talk")  # a conversation may be written again
    assert [file.name for file in tmp_path.iterdir()] == ["talk"]
    other.load(tmp_path / "talk")
    assert other.messages == chat.messages and other.messages[0]["role"] == "system"
    assert say_to(other, "go on") == say_to(chat, "go on")


@pytest.mark.parametrize("line", ["not json", "[]", '{"role": "god", "content": "x"}', '{"role": "user"}'])
def test_a_bad_line_is_named_and_changes_nothing(parts: tuple[LanguageModel, Tokenizer], tmp_path: Path, line: str) -> None:
    path = tmp_path / "talk"
    path.write_text(json.dumps({"role": "user", "content": "x"}) + "\n\n" + line + "\n")
    chat = Chat(*parts)
    say_to(chat, "one")
    before = list(chat.messages)
    with pytest.raises(AnymambaError, match="line 3"):
        chat.load(path)
    with pytest.raises(AnymambaError, match="no conversation"):
        chat.save(path)
    assert chat.messages == before

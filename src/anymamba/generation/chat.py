"""A conversation: each turn reads only what is new, for the state already holds the rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from anymamba.errors import AnymambaError
from anymamba.generation.engine import Reader
from anymamba.generation.sampling import Sampling
from anymamba.generation.text import Piece, end_tokens, pieces
from anymamba.language import _
from anymamba.models.lm import LanguageModel
from anymamba.models.tokenizer import Message, Tokenizer

ROLES = ("system", "user", "assistant")

TOKENS_BETWEEN_LOOKS = 512
"""Of a question that are read before it is asked again whether to stop."""


class Chat:
    """messages: the conversation so far. Raises AnymambaError at the first turn when the tokenizer has no chat template."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, system: str | None = None) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._system: list[Message] = [{"role": "system", "content": system}] if system else []
        self.reset()

    def reset(self) -> None:
        """Forgets the conversation."""
        self.messages: list[Message] = list(self._system)
        self._start_over()

    def _start_over(self) -> None:
        """The state of nothing: the next turn reads the whole conversation again. _read: the rendered text that the state holds;
        _pending: ids at its end that were chosen and not read."""
        self.reader = Reader(self.model)
        self._read = ""
        self._pending: list[int] = []

    def reply(
        self,
        question: str,
        max_new_tokens: int,
        sampling: Sampling,
        stop: Sequence[str] = (),
        measure: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[Piece]:
        """Streams the answer to the next question and adds both to the conversation.

        stopped: asked after each token, and between parts of a long question; True ends the answer with finish "stopped". What was
        said until then stays in the conversation, as when the iterator is closed; a question that was not read whole does not.
        """
        rendered = self.tokenizer.render_chat([*self.messages, {"role": "user", "content": question}])
        if not rendered.startswith(self._read):
            # the template writes earlier turns differently now; read the whole conversation again
            self._start_over()
        ids = self._pending + self.tokenizer.encode(rendered[len(self._read) :], special=True)
        if not self._read_question(ids, stopped):
            yield Piece("", finish="stopped")
            return
        answer, last, finish = "", None, None
        self._read, self._pending = rendered, []
        try:
            ends = end_tokens(self.model, self.tokenizer)
            for piece in pieces(self.reader, self.tokenizer, ids, max_new_tokens, sampling, stop, ends, measure):
                answer += piece.text
                last = piece.token if piece.token is not None else last
                finish = piece.finish
                yield piece
                if finish is None and stopped():
                    yield Piece("", finish="stopped")
                    break
            # the token chosen last is still unread; the end of the turn is part of the template's next text
            self._pending = [] if last is None or finish == "end" else [last]
            self._read = rendered + answer
        except GeneratorExit:
            self._pending, self._read = [] if last is None else [last], rendered + answer
            raise
        except BaseException:
            self._start_over()  # who knows what the state holds: an interrupt may come in the middle of a step
            raise
        finally:
            self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def _read_question(self, ids: list[int], stopped: Callable[[], bool]) -> bool:
        """Whether all of it was read; if not, the state is again that of before."""
        self.reader.leave_stepper()
        before = self.reader.cache.clone()
        try:
            for start in range(0, len(ids), TOKENS_BETWEEN_LOOKS):
                if stopped():
                    self.reader = Reader(self.model, cache=before)
                    return False
                self.reader.read(torch.tensor([ids[start : start + TOKENS_BETWEEN_LOOKS]]).to(self.model.device))
        except BaseException:
            self.reader = Reader(self.model, cache=before)
            raise
        return True

    def save(self, path: str | Path) -> None:
        """The conversation as JSON lines of messages, written whole or not at all.

        Raises AnymambaError where another kind of file has that name, or when the file cannot be written.
        """
        path = Path(path).expanduser()
        if path.exists():
            try:
                _read_messages(path)
            except AnymambaError as error:
                raise AnymambaError(
                    "data",
                    _("{path} exists and is no conversation").format(path=path),
                    why=error.what,
                    fix=_("choose another name"),
                ) from error
        temporary = path.with_name(f".{path.name}.partial")
        try:
            temporary.write_text("".join(json.dumps(m, ensure_ascii=False) + "\n" for m in self.messages), "utf-8")
            temporary.replace(path)
        except OSError as error:
            raise AnymambaError("data", _("cannot write {path}").format(path=path), why=str(error)) from error

    def load(self, path: str | Path) -> None:
        """Goes on with a conversation that ``save`` wrote, in place of this one; the next turn reads it.

        Raises AnymambaError naming the line that is no message; the present conversation then stays.
        """
        self.messages = _read_messages(Path(path).expanduser())
        self._start_over()


def _read_messages(path: Path) -> list[Message]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnymambaError("data", _("cannot read {path}").format(path=path), why=str(error)) from error
    messages: list[Message] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            messages.append(_message(line, _("{path}, line {number}").format(path=path, number=number)))
    return messages


def _message(line: str, where: str) -> Message:
    form = '{"role": "system" | "user" | "assistant", "content": "..."}'
    expectation = _("expected {form}").format(form=form)
    try:
        message = json.loads(line)
    except ValueError as error:
        raise AnymambaError("data", _("{where} is not JSON").format(where=where), why=str(error), fix=expectation) from error
    if not isinstance(message, dict) or message.get("role") not in ROLES or not isinstance(message.get("content"), str):
        raise AnymambaError("data", _("{where} is no message").format(where=where), why=line[:200], fix=expectation)
    return {"role": message["role"], "content": message["content"]}

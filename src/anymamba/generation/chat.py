"""A conversation: each turn reads only what is new, for the state already holds the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from anymamba.generation.engine import Reader
from anymamba.generation.sampling import Sampling
from anymamba.generation.text import Piece, pieces
from anymamba.models.lm import LanguageModel
from anymamba.models.tokenizer import Message, Tokenizer


class Chat:
    """messages: the conversation so far. Raises AnymambaError at the first turn when the tokenizer has no chat template."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, system: str | None = None) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._system: list[Message] = [{"role": "system", "content": system}] if system else []
        self.reset()

    def reset(self) -> None:
        """Forgets the conversation."""
        self.messages: list[Message] = list(self._system)
        self.reader = Reader(self.model)
        self._read = ""
        self._pending: list[int] = []

    def reply(
        self, question: str, max_new_tokens: int, sampling: Sampling, stop: Sequence[str] = (), measure: bool = False
    ) -> Iterator[Piece]:
        """Streams the answer to the next question and adds both to the conversation."""
        rendered = self.tokenizer.render_chat([*self.messages, {"role": "user", "content": question}])
        if not rendered.startswith(self._read):
            # the template writes earlier turns differently now; read the whole conversation again
            self.reader, self._read, self._pending = Reader(self.model), "", []
        ids = self._pending + self.tokenizer.encode(rendered[len(self._read) :], special=True)
        self.reader.read(torch.tensor([ids]).to(self.model.device))
        answer, last, finish = "", None, None
        for piece in pieces(self.reader, self.tokenizer, ids, max_new_tokens, sampling, stop, self._ends(), measure):
            answer += piece.text
            last = piece.token if piece.token is not None else last
            finish = piece.finish
            yield piece
        self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        self._read = rendered + answer
        # the token chosen last is still unread; the end of the turn is part of the template's next text
        self._pending = [] if last is None or finish == "end" else [last]

    def save(self, path: str | Path) -> None:
        """The conversation as JSON lines of messages."""
        import json

        Path(path).write_text("".join(json.dumps(m, ensure_ascii=False) + "\n" for m in self.messages), "utf-8")

    def _ends(self) -> list[int]:
        ends = list(self.model.config.eos_token_ids)
        end_of_turn = self.tokenizer.token_id("<|end|>")
        return ends if end_of_turn is None or end_of_turn in ends else [*ends, end_of_turn]

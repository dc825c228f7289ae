"""Perplexity and bits per byte of a text of any length, in constant memory.

recurrent: the state is carried from block to block, so every token is predicted from all the text before it, in one pass.
sliding: every ``stride`` tokens the model starts afresh, ``window - stride`` tokens earlier: the protocol for models with a
limited context, for comparison with them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.models.hub import check_vocabulary
from anymamba.models.lm import LanguageModel
from anymamba.models.tokenizer import Tokenizer
from anymamba.training.data.readers import documents
from anymamba.training.data.skips import Skips

Progress = Callable[["Score"], None]


@dataclass
class Score:
    """nats: sum of -log p over the tokens scored. tokens: how many those are. bytes: of the text, in UTF-8."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0

    @property
    def perplexity(self) -> float:
        """exp of the mean of -log p over the tokens; depends on the tokenizer."""
        return math.exp(min(self.nats / self.tokens, 700.0)) if self.tokens else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Does not depend on the tokenizer."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.nan


def score_file(
    model: LanguageModel,
    tokenizer: Tokenizer,
    path: str | Path,
    mode: str = "recurrent",
    window: int = 2048,
    stride: int | None = None,
    progress: Progress | None = None,
    *,
    encoding: str = "utf-8",
    text_field: str = "text",
    skips: Skips | None = None,
) -> Score:
    """The score of a file, read piece by piece: a text, or the documents of JSON, CSV or Parquet records, each from an empty state.

    encoding, text_field: as of ``readers.documents``; the rest as of ``score_text``. skips: where records without text are counted.
    Raises AnymambaError for a file that is missing, empty, binary or not in its encoding, then with the offset of the first bad byte.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise AnymambaError("data", _("there is no file {path}").format(path=path))
    skips = Skips() if skips is None else skips
    score = score_text(model, tokenizer, documents([str(path)], skips, text_field, encoding), mode, window, stride, progress)
    if not score.tokens:
        what = _("{path}: the text is too short to be scored").format(path=path)
        raise AnymambaError("data", what, why=skips.summary() or None)
    return score


def score_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    text: str | Iterable[str | None],
    mode: str = "recurrent",
    window: int = 2048,
    stride: int | None = None,
    progress: Progress | None = None,
) -> Score:
    """The score of a text, or of the pieces of one; None among the pieces ends a document, and the next begins from an empty state.

    window: tokens that the model reads at once (recurrent: any number gives the same score). stride: sliding only, half of
    window by default. progress: called with the score so far. The first token is predicted from the beginning-of-text or
    end-of-text token; without either it is not scored.
    """
    stride = window // 2 if stride is None else stride
    if mode not in ("recurrent", "sliding") or window < 2 or not 0 < stride <= window:
        raise AnymambaError(
            "usage",
            _("mode {mode!r}, window {window}, stride {stride} cannot be evaluated").format(
                mode=mode, window=window, stride=stride
            ),
            fix=_("mode is recurrent or sliding, window at least 2, stride from 1 to window"),
        )
    check_vocabulary(model.config, tokenizer)
    score = Score()
    texts = _Documents(tokenizer, iter([text] if isinstance(text, str) else text), score)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            if mode == "recurrent":
                _recurrent(model, texts, window, score, progress)
            else:
                while texts.next():
                    _sliding(model, texts.tokens(), window, stride, score, progress)
    finally:
        model.train(was_training)
    if not score.tokens and isinstance(text, str):
        raise AnymambaError("data", _("the text is too short to be scored"))
    return score


class _Documents:
    """Documents from pieces of text with None after each: ``while next(): tokens()`` gives the ids of one after the other."""

    def __init__(self, tokenizer: Tokenizer, pieces: Iterator[str | None], score: Score) -> None:
        self.tokenizer, self.pieces, self.score = tokenizer, pieces, score
        self._first: str | None = None

    def next(self) -> bool:
        """Goes on to the next document that has any text; False when there is none."""
        self._first = next((piece for piece in self.pieces if piece), None)
        return self._first is not None

    def tokens(self) -> Iterator[int]:
        """Start token and ids; counts the bytes of the text as it goes by."""
        start = self.tokenizer.bos_id if self.tokenizer.bos_id is not None else self.tokenizer.eos_id
        if start is not None:
            yield start
        piece = self._first
        while piece is not None:
            self.score.bytes += len(piece.encode("utf-8", errors="replace"))
            yield from self.tokenizer.encode(piece)
            piece = next(self.pieces, None)


def _recurrent(model: LanguageModel, texts: _Documents, window: int, score: Score, progress: Progress | None) -> None:
    """Documents no longer than the window are read side by side, in one row, without seeing each other."""
    row: list[list[int]] = []
    while texts.next():
        tokens = texts.tokens()
        ids = _take(tokens, window + 1)
        if len(ids) > window:
            _carried(model, ids, tokens, window, score, progress)
        elif len(ids) > 1:
            if sum(map(len, row)) + len(ids) > window:
                _packed(model, row, score, progress)
                row = []
            row.append(ids)
    if row:
        _packed(model, row, score, progress)


def _packed(model: LanguageModel, row: list[list[int]], score: Score, progress: Progress | None) -> None:
    inputs = torch.tensor([[token for ids in row for token in ids[:-1]]], device=model.device)
    targets = torch.tensor([[token for ids in row for token in ids[1:]]], device=model.device)
    places = [place for place, ids in enumerate(row) for _ in ids[1:]]
    seq_idx = torch.tensor([places], dtype=torch.int32, device=model.device) if len(row) > 1 else None
    output = model(inputs, targets=targets, seq_idx=seq_idx, normalizer=1.0)
    _count(score, output.loss, targets.shape[1], progress)


def _carried(
    model: LanguageModel, ids: list[int], tokens: Iterator[int], window: int, score: Score, progress: Progress | None
) -> None:
    """A document of any length: the state is carried from block to block."""
    cache = model.make_cache(1)
    while len(ids) > 1:
        row = torch.tensor([ids], device=model.device)
        output = model(row[:, :-1], targets=row[:, 1:], normalizer=1.0, cache=cache)
        _count(score, output.loss, len(ids) - 1, progress)
        ids = ids[-1:] + _take(tokens, window)


def _sliding(
    model: LanguageModel, tokens: Iterator[int], window: int, stride: int, score: Score, progress: Progress | None
) -> None:
    ids = _take(tokens, window + 1)
    scored = 0  # leading targets of the window that the one before has scored
    while len(ids) - 1 > scored:
        row = torch.tensor([ids], device=model.device)
        targets = row[:, 1:].clone()
        targets[:, :scored] = -100
        output = model(row[:, :-1], targets=targets, normalizer=1.0)
        _count(score, output.loss, len(ids) - 1 - scored, progress)
        if len(ids) <= window:  # the text has ended
            break
        ids = ids[stride:] + _take(tokens, stride)
        scored = window - stride


def _count(score: Score, loss: torch.Tensor, tokens: int, progress: Progress | None) -> None:
    score.nats += loss.item()
    score.tokens += tokens
    if progress is not None:
        progress(score)


def _take(tokens: Iterator[int], count: int) -> list[int]:
    return list(itertools.islice(tokens, count))

"""Perplexity and bits per byte of a text of any length, in constant memory.

recurrent: the state is carried from block to block, so every token is predicted from all the text before it, in one pass.
sliding: every ``stride`` tokens the model starts afresh, ``window - stride`` tokens earlier: the protocol for models with a
limited context, for comparison with them.
"""

from __future__ import annotations

import codecs
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from anymamba.errors import AnymambaError
from anymamba.language import say
from anymamba.models.hub import check_vocabulary
from anymamba.models.lm import LanguageModel
from anymamba.models.tokenizer import Tokenizer

_READ_BYTES = 2**20

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
) -> Score:
    """The score of a UTF-8 text file, read piece by piece. Arguments as of ``score_text``.

    Raises AnymambaError for a file that is missing, empty or not UTF-8, then with the offset of the first bad byte.
    """
    return score_text(model, tokenizer, _pieces(Path(path)), mode, window, stride, progress)


def score_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    text: str | Iterable[str],
    mode: str = "recurrent",
    window: int = 2048,
    stride: int | None = None,
    progress: Progress | None = None,
) -> Score:
    """The score of a text, or of the pieces of one.

    window: tokens that the model reads at once (recurrent: any number gives the same score). stride: sliding only, half of
    window by default. progress: called with the score so far. The first token is predicted from the beginning-of-text or
    end-of-text token; without either it is not scored.
    """
    stride = window // 2 if stride is None else stride
    if mode not in ("recurrent", "sliding") or window < 2 or not 0 < stride <= window:
        raise AnymambaError(
            "usage",
            say(
                f"mode {mode!r}, window {window}, stride {stride} cannot be evaluated",
                f"无法按 mode {mode!r}、window {window}、stride {stride} 评测",
            ),
            fix=say(
                "mode is recurrent or sliding, window at least 2, stride from 1 to window",
                "mode 为 recurrent 或 sliding，window 至少为 2，stride 在 1 到 window 之间",
            ),
        )
    check_vocabulary(model.config, tokenizer)
    score = Score()
    tokens = _tokens(tokenizer, [text] if isinstance(text, str) else text, score)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            if mode == "recurrent":
                _recurrent(model, tokens, window, score, progress)
            else:
                _sliding(model, tokens, window, stride, score, progress)
    finally:
        model.train(was_training)
    if not score.tokens:
        raise AnymambaError("data", say("the text is too short to be scored", "文本过短，无法评测"))
    return score


def _recurrent(
    model: LanguageModel, tokens: Iterator[int], window: int, score: Score, progress: Progress | None
) -> None:
    cache = model.make_cache(1)
    ids = _take(tokens, window + 1)
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


def _tokens(tokenizer: Tokenizer, pieces: Iterable[str], score: Score) -> Iterator[int]:
    """Start token and ids; counts the bytes of the text as it goes by."""
    start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if start is not None:
        yield start
    for piece in pieces:
        score.bytes += len(piece.encode("utf-8", errors="replace"))
        yield from tokenizer.encode(piece)


def _take(tokens: Iterator[int], count: int) -> list[int]:
    return list(itertools.islice(tokens, count))


def _pieces(path: Path) -> Iterator[str]:
    """The file's text in pieces that end with a line, so that no word is cut and tokens are those of the whole text."""
    if not path.is_file():
        raise AnymambaError("data", say(f"there is no file {path}", f"没有文件 {path}"))
    if path.stat().st_size == 0:
        raise AnymambaError("data", say(f"{path} is empty", f"{path} 是空文件"))
    decoder = codecs.getincrementaldecoder("utf-8")()
    held, offset = "", 0
    with open(path, "rb") as file:
        while True:
            block = file.read(_READ_BYTES)
            waiting = len(decoder.getstate()[0])
            try:
                held += decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise AnymambaError(
                    "data",
                    say(
                        f"{path} is not UTF-8 text: byte {offset - waiting + error.start} cannot be read",
                        f"{path} 不是 UTF-8 文本：第 {offset - waiting + error.start} 字节无法解码",
                    ),
                    why=str(error),
                    fix=say("convert it to UTF-8, or name a text file", "请转换为 UTF-8 或指定文本文件"),
                ) from error
            offset += len(block)
            cut = held.rfind("\n") + 1 or (len(held) if len(held) > 4 * _READ_BYTES else 0)
            if not block:
                cut = len(held)
            if cut:
                yield held[:cut]
                held = held[cut:]
            if not block:
                return

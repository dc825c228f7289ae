"""Text in, text out: tokens of a generation as the characters that may be shown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anymamba.errors import AnymambaError
from anymamba.generation.detokenize import StopStrings, StreamingDetokenizer
from anymamba.generation.engine import Reader
from anymamba.generation.sampling import Sampling
from anymamba.generation.steps import Step, steps
from anymamba.language import _
from anymamba.models.lm import LanguageModel
from anymamba.models.tokenizer import Tokenizer


@dataclass
class Piece:
    """text: what may be shown now (whole characters). finish: why the text ended ("end", "stop", "length"), in the last piece only.

    When measured: probability of the token that completed the text; log_probability, in nats, the same; entropy of the choice, in
    bits; alternatives: (id, log-probability) of the likeliest tokens in that place, the chosen one among them if it is one of them.
    """

    text: str
    token: int | None = None
    probability: float | None = None
    entropy: float | None = None
    finish: str | None = None
    log_probability: float | None = None
    alternatives: list[tuple[int, float]] | None = None


@dataclass
class Continuation:
    """The new text of one prompt of a batch. pieces: one a token, without the end token. finish: as of Piece."""

    text: str
    pieces: list[Piece]
    finish: str
    prompt_tokens: int


class _Row:
    """One text of a generation, from steps to pieces."""

    def __init__(self, tokenizer: Tokenizer, row: int, stop: Sequence[str], eos: Sequence[int]) -> None:
        self.finish: str | None = None
        self._detokenizer, self._stops = StreamingDetokenizer(tokenizer.decode), StopStrings(stop)
        self._row, self._eos = row, eos

    def add(self, step: Step) -> Piece | None:
        """None, and ``finish`` set, for the token that ends the text; it is not shown."""
        row, token = self._row, int(step.ids[self._row])
        if token in self._eos:
            self.finish = "end"
            return None
        piece = Piece(self._stops.add(self._detokenizer.add(token)), token)
        if self._stops.found is not None:
            self.finish = "stop"
        if step.log_probability is not None and step.entropy is not None:
            piece.log_probability = float(step.log_probability[row])
            piece.probability = math.exp(piece.log_probability)
            piece.entropy = float(step.entropy[row]) / math.log(2)
        if step.top_ids is not None and step.top_log_probabilities is not None:
            piece.alternatives = list(zip(step.top_ids[row].tolist(), step.top_log_probabilities[row].tolist()))
        return piece

    def rest(self) -> Piece:
        """The last piece: text that has waited for what never came."""
        text = "" if self._stops.found is not None else self._stops.add(self._detokenizer.finish()) + self._stops.finish()
        return Piece(text, finish=self.finish or "length")


def end_tokens(model: LanguageModel, tokenizer: Tokenizer) -> list[int]:
    """Every token that ends a text of this model, or an answer by its tokenizer's chat template.

    The template is asked only where the checkpoint names no more than one end, as those of earlier versions do: to render it costs
    the start of a program a tenth of a second.
    """
    ends = model.config.eos_token_ids
    return ends if len(ends) > 1 else list(dict.fromkeys([*ends, *tokenizer.end_ids]))


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a prompt; an empty prompt starts from the model's beginning-of-text token.

    Raises AnymambaError when there is nothing to start from."""
    ids = tokenizer.encode(prompt)
    if ids:
        return ids
    start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if start is None:
        raise AnymambaError(
            "usage",
            _("the prompt is empty and the tokenizer has no token that begins a text"),
            fix=_("give a prompt with -p"),
        )
    return [start]


def pieces(
    reader: Reader,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling,
    stop: Sequence[str] = (),
    eos: Sequence[int] = (),
    measure: bool = False,
    top: int = 0,
    ahead: int = 0,
) -> Iterator[Piece]:
    """Streams one text; ``reader`` has read the prompt. The end token and everything from a stop string on are not shown.

    top: also the log-probabilities of so many of the likeliest tokens. ahead: as of ``steps``; where it is not 0, nobody may go on from
    the reader's state.
    """
    row = _Row(tokenizer, 0, stop, eos)
    ids = torch.tensor([list(prompt)], dtype=torch.long).to(reader.model.device)
    for step in steps(reader, max_new_tokens, sampling, ids, list(eos), measure, top=top, ahead=ahead):
        piece = row.add(step)
        if piece is not None:
            yield piece
        if row.finish is not None:
            break
    yield row.rest()


def generate_batch(
    reader: Reader,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    stop: Sequence[str] = (),
    eos: Sequence[int] = (),
    top: int = 0,
) -> list[Continuation]:
    """Continues several prompts at once, padded on the left; nobody may go on from the reader's state. top: as of ``pieces``."""
    input_ids, mask = (tensor.to(reader.model.device) for tensor in left_padded(prompts, tokenizer.pad_id or 0))
    reader.read(input_ids, mask)
    rows = [_Row(tokenizer, index, stop, eos) for index in range(len(prompts))]
    written: list[list[Piece]] = [[] for _ in prompts]
    for step in steps(reader, max_new_tokens, sampling, input_ids, list(eos), False, mask, top, reader.ahead):
        for row, text in zip(rows, written):
            piece = row.add(step) if row.finish is None else None
            if piece is not None:
                text.append(piece)
        if all(row.finish is not None for row in rows):
            break
    return [
        Continuation("".join(piece.text for piece in [*text, last]), text, last.finish or "length", len(prompt))
        for prompt, text, last in zip(prompts, written, [row.rest() for row in rows])
    ]


def left_padded(prompts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """ids and attention mask, both (rows, longest)."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask

"""How the next token is chosen from the logits."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from anymamba.errors import ArgumentError
from anymamba.language import _

NGRAM_WINDOW = 16384
"""Tokens that no_repeat_ngram looks back: bounded, so that memory stays constant however long the text grows."""


@dataclass(frozen=True)
class Sampling:
    """temperature: 0 is greedy. top_k: keep the k likeliest (0: all). top_p: keep the smallest set with this probability.
    min_p: drop tokens less likely than min_p times the likeliest. repetition_penalty: divides (multiplies) the positive
    (negative) logits of tokens seen before (1: off; Keskar et al. 2019, section 4.1). no_repeat_ngram: never repeat n tokens in
    a row (0: off). seed: the same tokens on every run; from 0 to 2**63 - 1. Raises ArgumentError for a value outside these.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        limits = {
            "temperature": (self.temperature >= 0, ">= 0"),
            "top_k": (self.top_k >= 0, ">= 0"),
            "top_p": (0 < self.top_p <= 1, "0 < top_p <= 1"),
            "min_p": (0 <= self.min_p < 1, "0 <= min_p < 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "> 0"),
            "no_repeat_ngram": (self.no_repeat_ngram >= 0, ">= 0"),
            "seed": (self.seed is None or 0 <= self.seed < 2**63, "0 <= seed < 2**63"),
        }
        for name, (ok, wanted) in limits.items():
            if not ok:
                value = getattr(self, name)
                raise ArgumentError(
                    "usage",
                    _("{name} is {value}, but must be {expected}").format(name=name, value=value, expected=wanted),
                )

    @property
    def is_plain_greedy(self) -> bool:
        """Nothing but the largest logit counts."""
        return self.temperature == 0 and self.repetition_penalty == 1 and self.no_repeat_ngram == 0


SAMPLING_OPTIONS = tuple(field.name for field in fields(Sampling))


class Sampler:
    """Chooses tokens for a batch of rows, remembering what each row has seen."""

    def __init__(self, sampling: Sampling, rows: int, device: torch.device) -> None:
        self.sampling = sampling
        self._generator: torch.Generator | None = None
        if sampling.seed is not None:
            self._generator = torch.Generator(device).manual_seed(sampling.seed)
        self._seen: Tensor | None = None  # (rows, vocabulary + 1), made when the vocabulary is known
        self._rows = rows
        self._recent = torch.empty(rows, 0, dtype=torch.long, device=device)  # (rows, at most NGRAM_WINDOW), -1 before a row's first

    def saw(self, ids: Tensor, mask: Tensor | None = None) -> None:
        """Takes note of tokens of shape (rows, tokens) that are already in the text. mask, of the same shape: 0 where a row has
        padding, which nobody wrote and no penalty counts, whatever id it has."""
        if self.sampling.no_repeat_ngram:
            new = ids.to(self._recent)
            if mask is not None:  # padding goes to the front, wherever it stands, so that a text's tokens are neighbours
                order = mask.to(new.device).bool().to(torch.int8).sort(dim=1, stable=True)
                new = new.gather(1, order.indices).masked_fill(order.values == 0, -1)
            self._recent = torch.cat([self._recent, new], dim=1)[:, -NGRAM_WINDOW:]
        if self.sampling.repetition_penalty != 1 and self._seen is not None:
            ids = ids.to(self._seen.device)
            # padding is noted in a column of its own, behind those of the vocabulary
            nobody = self._seen.shape[1] - 1
            self._seen.scatter_(1, ids if mask is None else ids.masked_fill(~mask.to(ids.device).bool(), nobody), True)

    def start(self, prompt: Tensor, vocabulary: int, mask: Tensor | None = None) -> None:
        """Takes note of the prompt, (rows, tokens), before the first choice. mask: (rows, tokens or more), 0 for padding; a longer one
        counts from the right, as the model's does."""
        if self.sampling.repetition_penalty != 1:
            self._seen = torch.zeros(self._rows, vocabulary + 1, dtype=torch.bool, device=prompt.device)
        self.saw(prompt, None if mask is None or not prompt.shape[1] else mask[:, -prompt.shape[1] :])

    def __call__(self, logits: Tensor) -> Tensor:
        """The next tokens, (rows,), from the logits, (rows, vocabulary)."""
        sampling = self.sampling
        if not sampling.is_plain_greedy:
            logits = self._banned(self._penalised(logits.float()))
        if sampling.temperature == 0:
            chosen = logits.argmax(-1)
        else:
            chosen = _draw(_kept(logits / sampling.temperature, sampling), self._generator)
        if not sampling.is_plain_greedy:
            self.saw(chosen[:, None])
        return chosen

    def _penalised(self, logits: Tensor) -> Tensor:
        penalty = self.sampling.repetition_penalty
        if self._seen is None:
            return logits
        return torch.where(self._seen[:, :-1], torch.where(logits > 0, logits / penalty, logits * penalty), logits)

    def _banned(self, logits: Tensor) -> Tensor:
        """Logits with every token at -inf that would complete n tokens that are already in the text."""
        n = self.sampling.no_repeat_ngram
        if not n or self._recent.shape[1] < n:
            return logits
        begun = self._recent.unfold(1, n, 1)  # (rows, places, n), every n-gram of the text
        tail = self._recent[:, None, self._recent.shape[1] - n + 1 :]
        repeated = ((begun[..., :-1] == tail) & (tail >= 0)).all(-1) & (begun[..., -1] >= 0)
        vocabulary = logits.shape[-1]
        banned = torch.zeros(len(logits), vocabulary + 1, dtype=torch.bool, device=logits.device)
        banned.scatter_(1, begun[..., -1].masked_fill(~repeated, vocabulary), True)
        return logits.masked_fill(banned[:, :-1], -torch.inf)


def _kept(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits with everything that top_k, min_p and top_p drop set to -inf; at least the likeliest token stays."""
    if sampling.top_k:
        smallest = logits.topk(min(sampling.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if sampling.min_p:
        probability = logits.softmax(-1)
        logits = logits.masked_fill(probability < sampling.min_p * probability.amax(-1, keepdim=True), -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.softmax(-1).sort(-1, descending=True)
        # a token goes when those likelier than it already reach top_p
        drop = ordered.cumsum(-1) - ordered >= sampling.top_p
        logits = logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    return logits


def _draw(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """One token a row by the exponential race: argmax of p / e with e ~ Exp(1) draws from p without a synchronisation."""
    race = torch.empty_like(logits).exponential_(generator=generator)
    return (logits.softmax(-1) / race).argmax(-1)

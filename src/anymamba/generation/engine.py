"""Prefill, then step: one loop for generate, stream, chat and the command line.

A ``Reader`` holds a model's recurrent state for a batch of rows and gives the logits of the next token. It reads a prompt in
pieces (memory does not grow with its length) and then one token a row at a time, through the fastest stepper of this machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anymamba.errors import ArgumentError
from anymamba.generation.sampling import Sampler, Sampling
from anymamba.generation.stepper import Stepper, choose_stepper
from anymamba.language import _
from anymamba.models.cache import Cache
from anymamba.models.lm import LanguageModel
from anymamba.models.trunk.padding import on_the_left
from anymamba.models.trunk.watch import Watch

PREFILL_TOKENS = 4096
"""Tokens of a prompt read at once."""


@dataclass
class Step:
    """One token of every row. ids: (batch,). done: (batch,) rows that have ended. When asked for, of the model's own distribution at
    temperature 1, in nats: log_probability, entropy: (batch,); top_ids, top_log_probabilities: (batch, top), the likeliest first."""

    ids: Tensor
    done: Tensor
    log_probability: Tensor | None = None
    entropy: Tensor | None = None
    top_ids: Tensor | None = None
    top_log_probabilities: Tensor | None = None


@dataclass
class Timing:
    """Seconds and tokens of a generation."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    new_tokens: int = 0
    new_seconds: float = 0.0
    stepper: str = ""
    why: str = ""

    @property
    def tokens_per_second(self) -> float:
        return self.new_tokens / self.new_seconds if self.new_seconds else 0.0


class Reader:
    """The state of ``rows`` texts under one model. logits: (rows, vocabulary) of the next token, None before anything was read."""

    def __init__(self, model: LanguageModel, rows: int = 1, cache: Cache | None = None, *, alone: bool = False) -> None:
        self.model = model
        self.cache = cache if cache is not None else model.make_cache(rows)
        self.logits: Tensor | None = None
        self.timing = Timing()
        self._stepper: Stepper | None = None
        self._watch: Watch | None = None
        self.alone = alone
        """Whether nobody's code runs between two steps, so that nothing can be attached to the model there: it is not looked at again."""

    @torch.inference_mode()
    def read(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Reads tokens, (rows, length), in parallel pieces, and returns the logits after the last of each row.

        attention_mask: (rows, length or more), 0 for padding, wherever it stands; a longer one counts from the right.
        """
        if input_ids.dim() != 2 or input_ids.shape[1] == 0:
            raise ArgumentError(
                "shape",
                _("input_ids must be (rows, length) with at least one token, not {shape}").format(
                    shape=tuple(input_ids.shape)
                ),
            )
        started = time.perf_counter()
        if attention_mask is not None:
            attention_mask = attention_mask[:, -input_ids.shape[1] :]
        self.leave_stepper()
        if attention_mask is not None:
            input_ids, attention_mask = on_the_left(input_ids, attention_mask)
        for start in range(0, input_ids.shape[1], PREFILL_TOKENS):
            piece = slice(start, start + PREFILL_TOKENS)
            mask = None if attention_mask is None else attention_mask[:, piece]
            output = self.model(input_ids[:, piece], cache=self.cache, attention_mask=mask, logits_to_keep=1)
        self.logits = output.logits[:, -1].float()
        self.timing.prompt_tokens += input_ids.numel() if attention_mask is None else int(attention_mask.sum())
        self.timing.prompt_seconds += time.perf_counter() - started
        return self.logits

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """Reads one token a row, (rows,), and returns the logits of the next; valid until the next call."""
        if self._watch is not None and not self.alone and self._watch.changed():
            self.leave_stepper()
        if self._stepper is None:
            self._watch = Watch(self.model)
            self._stepper = choose_stepper(self.model, self.cache)
            self.timing.stepper, self.timing.why = self._stepper.name, self._stepper.why
        self.logits = self._stepper.step(ids)
        return self.logits

    def leave_stepper(self) -> None:
        """Brings the cache up to date with what the stepper has read; called before anything else uses the cache."""
        if self._stepper is not None:
            self._stepper.write_back()
            self._stepper = self._watch = None


def steps(
    reader: Reader,
    max_new_tokens: int,
    sampling: Sampling,
    prompt: Tensor | None = None,
    eos: list[int] | None = None,
    measure: bool = False,
    attention_mask: Tensor | None = None,
    top: int = 0,
) -> Iterator[Step]:
    """Chooses and reads tokens until every row has ended or ``max_new_tokens`` (-1: without limit).

    reader must have logits. prompt: (rows, length), for the penalties; attention_mask: 0 where it is padding, which they do not
    count. measure: also log-probability and entropy; top: and those of so many of the likeliest tokens.
    """
    if max_new_tokens < -1:
        raise ArgumentError(
            "usage",
            _("max_new_tokens is {max_new_tokens}: a number of tokens, or -1 to go on until the text ends").format(
                max_new_tokens=max_new_tokens
            ),
        )
    if reader.logits is None:
        raise ArgumentError("usage", _("nothing was read yet: an empty prompt"))
    logits = reader.logits
    rows, vocabulary = logits.shape
    sampler = Sampler(sampling, rows, logits.device)
    sampler.start(
        prompt if prompt is not None else torch.empty(rows, 0, dtype=torch.long, device=logits.device),
        vocabulary,
        attention_mask,
    )
    ends = torch.tensor(eos or [], device=logits.device)
    done = torch.zeros(rows, dtype=torch.bool, device=logits.device)
    started = time.perf_counter()
    count = 0
    with torch.inference_mode():
        while max_new_tokens < 0 or count < max_new_tokens:
            ids = sampler(logits)
            step = Step(ids, done)
            if measure or top:
                step.log_probability, step.entropy = confidence(logits, ids)
            if top:
                likeliest = logits.float().log_softmax(-1).topk(min(top, vocabulary))
                step.top_ids, step.top_log_probabilities = likeliest.indices, likeliest.values
            running = rows - int(done.sum()) if rows > 1 and len(ends) else rows
            if len(ends):
                # a row that has ended keeps repeating its end, so that the batch stays a rectangle
                ids = step.ids = torch.where(done, ends[0], ids)
                done = done | torch.isin(ids, ends)
                step.done = done
            count += 1
            reader.timing.new_tokens += running
            reader.timing.new_seconds += time.perf_counter() - started
            yield step
            started = time.perf_counter()
            if len(ends) and bool(done.all()):
                break
            if max_new_tokens < 0 or count < max_new_tokens:
                logits = reader.step(ids)


def confidence(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of the chosen ids, (rows,), and entropy, (rows,), of the distribution of the logits; in nats."""
    log_probabilities = logits.float().log_softmax(-1)
    chosen = log_probabilities.gather(-1, ids[:, None])[:, 0]
    return chosen, -(log_probabilities.exp() * log_probabilities.clamp_min(-1e4)).sum(-1)


def generate(
    model: LanguageModel,
    input_ids: Tensor,
    max_new_tokens: int,
    *,
    attention_mask: Tensor | None = None,
    eos: list[int] | None = None,
    cache: Cache | None = None,
    **sampling: Any,
) -> Tensor:
    """Continues every row: returns (rows, length + new tokens). After a row's end token the end token is repeated.

    input_ids: (rows, length) integers, padding where attention_mask, (rows, length), is 0. max_new_tokens: -1 goes on
    until every row has ended. eos: ids that end a row (default: the model's). cache: a state to continue from. sampling: fields of
    ``sampling.Sampling``; greedy by default.
    """
    reader = Reader(model, input_ids.shape[0], cache, alone=True)
    reader.read(input_ids, attention_mask)
    ends = model.config.eos_token_ids if eos is None else eos
    chosen = steps(reader, max_new_tokens, Sampling(**sampling), input_ids, ends, attention_mask=attention_mask)
    new = [step.ids for step in chosen]
    reader.leave_stepper()
    return torch.cat([input_ids, *(ids[:, None].to(input_ids) for ids in new)], dim=1)


def stream(
    model: LanguageModel,
    input_ids: Tensor,
    max_new_tokens: int,
    *,
    attention_mask: Tensor | None = None,
    eos: list[int] | None = None,
    cache: Cache | None = None,
    measure: bool = False,
    top: int = 0,
    **sampling: Any,
) -> Iterator[Step]:
    """Like generate, yielding each Step as it comes; memory does not grow with the number of tokens. measure, top: as of ``steps``."""
    reader = Reader(model, input_ids.shape[0], cache)
    reader.read(input_ids, attention_mask)
    ends = model.config.eos_token_ids if eos is None else eos
    yield from steps(reader, max_new_tokens, Sampling(**sampling), input_ids, ends, measure, attention_mask, top)
    reader.leave_stepper()
